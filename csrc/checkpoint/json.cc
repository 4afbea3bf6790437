#include "checkpoint/json.h"

#include <limits>

#include "core/error.h"

namespace millrace {

namespace {

void append_utf8(std::string& out, uint32_t code) {
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xc0 | (code >> 6));
    out += static_cast<char>(0x80 | (code & 0x3f));
  } else if (code < 0x10000) {
    out += static_cast<char>(0xe0 | (code >> 12));
    out += static_cast<char>(0x80 | ((code >> 6) & 0x3f));
    out += static_cast<char>(0x80 | (code & 0x3f));
  } else {
    out += static_cast<char>(0xf0 | (code >> 18));
    out += static_cast<char>(0x80 | ((code >> 12) & 0x3f));
    out += static_cast<char>(0x80 | ((code >> 6) & 0x3f));
    out += static_cast<char>(0x80 | (code & 0x3f));
  }
}

}  // namespace

void JsonReader::skip_space() {
  while (position_ < text_.size()) {
    const char c = text_[position_];
    if (c != ' ' && c != '\n' && c != '\r' && c != '\t') break;
    position_++;
  }
}

std::string JsonReader::found() const {
  if (position_ >= text_.size()) return "the end of the text";
  const unsigned char c = static_cast<unsigned char>(text_[position_]);
  return c >= 0x20 && c < 0x7f ? format("'%c'", c) : format("byte 0x%02x", c);
}

void JsonReader::open(char bracket, const char* what) {
  skip_space();
  if (position_ >= text_.size() || text_[position_] != bracket)
    fail(format("expected %s, found %s", what, found().c_str()));
  position_++;
  opened_ = true;
}

bool JsonReader::more(char closing) {
  skip_space();
  const bool first = opened_;
  opened_ = false;
  if (position_ < text_.size() && text_[position_] == closing) {
    position_++;
    return false;
  }
  if (first) return true;
  if (position_ >= text_.size() || text_[position_] != ',') {
    fail(format("expected ',' or '%c', found %s", closing, found().c_str()));
  }
  position_++;
  return true;
}

bool JsonReader::next_member(std::string& key) {
  if (!more('}')) return false;
  key = string();
  skip_space();
  if (position_ >= text_.size() || text_[position_] != ':') fail(format("expected ':', found %s", found().c_str()));
  position_++;
  return true;
}

uint32_t JsonReader::hex4() {
  uint32_t value = 0;
  for (int i = 0; i < 4; i++) {
    const char c = position_ < text_.size() ? text_[position_] : '\0';
    uint32_t digit;
    if (c >= '0' && c <= '9') {
      digit = static_cast<uint32_t>(c - '0');
    } else if (c >= 'a' && c <= 'f') {
      digit = static_cast<uint32_t>(c - 'a') + 10;
    } else if (c >= 'A' && c <= 'F') {
      digit = static_cast<uint32_t>(c - 'A') + 10;
    } else {
      fail(format("expected a hexadecimal digit, found %s", found().c_str()));
    }
    value = value * 16 + digit;
    position_++;
  }
  return value;
}

// One well-formed sequence of two to four bytes (RFC 3629: no overlong forms, no surrogates, at most U+10FFFF).
void JsonReader::utf8_sequence(std::string& out) {
  const auto byte = [&](size_t i) -> uint32_t {
    return position_ + i < text_.size() ? static_cast<unsigned char>(text_[position_ + i]) : 0;
  };
  const uint32_t lead = byte(0);
  size_t length;
  uint32_t low = 0x80, high = 0xbf;  // of the second byte
  if (lead >= 0xc2 && lead <= 0xdf) {
    length = 2;
  } else if (lead >= 0xe0 && lead <= 0xef) {
    length = 3;
    if (lead == 0xe0) low = 0xa0;
    if (lead == 0xed) high = 0x9f;
  } else if (lead >= 0xf0 && lead <= 0xf4) {
    length = 4;
    if (lead == 0xf0) low = 0x90;
    if (lead == 0xf4) high = 0x8f;
  } else {
    fail("not UTF-8");
  }
  if (byte(1) < low || byte(1) > high) fail("not UTF-8");
  for (size_t i = 2; i < length; i++) {
    if (byte(i) < 0x80 || byte(i) > 0xbf) fail("not UTF-8");
  }
  out.append(text_.substr(position_, length));
  position_ += length;
}

std::string JsonReader::string() {
  skip_space();
  opened_ = false;
  if (position_ >= text_.size() || text_[position_] != '"')
    fail(format("expected a string, found %s", found().c_str()));
  position_++;
  std::string out;
  for (;;) {
    if (position_ >= text_.size()) fail("the text ends within a string");
    const unsigned char c = static_cast<unsigned char>(text_[position_]);
    if (c == '"') {
      position_++;
      return out;
    }
    if (c < 0x20) fail(format("control character 0x%02x within a string", c));
    if (c >= 0x80) {
      utf8_sequence(out);
      continue;
    }
    position_++;
    if (c != '\\') {
      out += static_cast<char>(c);
      continue;
    }
    const char escape = position_ < text_.size() ? text_[position_] : '\0';
    switch (escape) {
      case '"':
      case '\\':
      case '/':
        out += escape;
        break;
      case 'b':
        out += '\b';
        break;
      case 'f':
        out += '\f';
        break;
      case 'n':
        out += '\n';
        break;
      case 'r':
        out += '\r';
        break;
      case 't':
        out += '\t';
        break;
      case 'u': {
        position_++;
        uint32_t code = hex4();
        if (code >= 0xdc00 && code <= 0xdfff) fail("unpaired surrogate");
        if (code >= 0xd800 && code <= 0xdbff) {
          if (text_.substr(position_, 2) != "\\u") fail("unpaired surrogate");
          position_ += 2;
          const uint32_t low = hex4();
          if (low < 0xdc00 || low > 0xdfff) fail("unpaired surrogate");
          code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
        }
        append_utf8(out, code);
        continue;
      }
      default:
        fail(format("unknown escape, found %s", found().c_str()));
    }
    position_++;
  }
}

int64_t JsonReader::integer() {
  skip_space();
  opened_ = false;
  const auto digit = [&] { return position_ < text_.size() && text_[position_] >= '0' && text_[position_] <= '9'; };
  if (!digit()) fail(format("expected a non-negative integer, found %s", found().c_str()));
  const bool leading_zero = text_[position_] == '0';
  int64_t value = 0;
  for (size_t digits = 0; digit(); digits++, position_++) {
    if (leading_zero && digits > 0) fail("an integer with a leading zero");
    const int64_t d = text_[position_] - '0';
    if (value > (std::numeric_limits<int64_t>::max() - d) / 10) fail("an integer beyond 2^63 - 1");
    value = value * 10 + d;
  }
  if (position_ < text_.size() && (text_[position_] == '.' || text_[position_] == 'e' || text_[position_] == 'E')) {
    fail(format("expected an integer, found %s within it", found().c_str()));
  }
  return value;
}

void JsonReader::end() {
  skip_space();
  if (position_ != text_.size()) fail(format("expected the end of the text, found %s", found().c_str()));
}

}  // namespace millrace
