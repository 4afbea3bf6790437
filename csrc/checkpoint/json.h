#pragma once
// A strict pull reader of JSON (RFC 8259) for headers whose shape is known in advance. The caller asks for what must
// come next, so nesting is bounded by the caller's own code and no value is ever built for its own sake. UTF-8 is
// checked, numbers are non-negative integers, and nothing beyond the standard is let through.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace millrace {

// What was wrong, and at which byte of the text.
struct JsonError {
  size_t position;
  std::string what;
};

class JsonReader {
 public:
  explicit JsonReader(std::string_view text) : text_(text) {}

  size_t position() const { return position_; }

  // Objects:  begin_object(); while (next_member(key)) <read the value>   Arrays likewise.
  void begin_object() { open('{', "an object"); }
  bool next_member(std::string& key);
  void begin_array() { open('[', "an array"); }
  bool next_element() { return more(']'); }

  std::string string();
  // An integer in [0, 2^63): no sign, fraction, exponent or leading zero.
  int64_t integer();
  // Nothing but white space may follow.
  void end();

  [[noreturn]] void fail(const std::string& what) const { throw JsonError{position_, what}; }

 private:
  void skip_space();
  void open(char bracket, const char* what);
  // After an opening bracket or a value: true if another one follows, false if the bracket closes.
  bool more(char closing);
  std::string found() const;
  uint32_t hex4();
  void utf8_sequence(std::string& out);

  std::string_view text_;
  size_t position_ = 0;
  bool opened_ = false;  // a bracket has just been opened: no comma is due
};

}  // namespace millrace
