#pragma once
// The texts whose keys and values are remembered, as a tree: a text is a block of tokens behind its parent's, found by
// both. Where its keys and values are, in a block of the device or a slot of system RAM, is kept beside it for each
// class, so a text stays what it is as they move (kv_pool.h).
#include <cstdint>
#include <functional>
#include <list>
#include <unordered_map>
#include <vector>

#include "backend/backend.h"

namespace millrace {

inline constexpr int32_t kNoText = -1;  // as a parent: of those that begin

class KvTexts {
 public:
  // Of one class: at most one of both, but for a moment.
  struct Place {
    int32_t block = -1;
    int32_t slot = -1;
    bool held = false;  // the slot: by somebody who brings it back
    bool rests = false;
    std::list<int32_t>::iterator resting;  // if it rests: its place among those that do
  };
  explicit KvTexts(int classes) : classes_(classes) {}

  // The text of these kKvBlockTokens tokens behind `parent`, or kNoText.
  int32_t find(int32_t parent, const int32_t* tokens) const;
  // Which is not there yet.
  int32_t add(int32_t parent, const int32_t* tokens, bool decoded);
  // The text goes, and all that continue it, which nobody would find any more; `each` is told of them before.
  void remove(int32_t text, const std::function<void(int32_t)>& each);
  void remove_all(const std::function<void(int32_t)>& each);

  bool decoded(int32_t text) const { return texts_[text].decoded; }
  Place& place(int32_t text, int kv_class) { return places_[static_cast<size_t>(text) * classes_ + kv_class]; }
  const Place& place(int32_t text, int kv_class) const {
    return places_[static_cast<size_t>(text) * classes_ + kv_class];
  }
  // Of no other text, before or later.
  uint64_t serial(int32_t text) const { return texts_[text].serial; }
  bool is(int32_t text, uint64_t serial) const { return texts_[text].serial == serial; }

 private:
  struct Text {
    int32_t parent = kNoText;
    int32_t first_child = kNoText, next = kNoText, before = kNoText;  // siblings
    bool decoded = false;
    uint64_t key = 0;
    uint64_t serial = 0;  // 0: there is none
    int32_t tokens[kKvBlockTokens];
  };
  static uint64_t key_of(int32_t parent, const int32_t* tokens);
  int32_t& first_child(int32_t parent) { return parent == kNoText ? first_ : texts_[parent].first_child; }

  const int classes_;
  int32_t first_ = kNoText;  // of those that begin
  uint64_t serials_ = 0;
  std::vector<Text> texts_;
  std::vector<Place> places_;  // [texts, classes]
  std::vector<int32_t> free_;
  std::unordered_multimap<uint64_t, int32_t> by_key_;
};

}  // namespace millrace
