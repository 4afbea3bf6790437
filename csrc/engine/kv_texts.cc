#include "engine/kv_texts.h"

#include <cstring>

namespace millrace {

uint64_t KvTexts::key_of(int32_t parent, const int32_t* tokens) {
  uint64_t hash = 0x9e3779b97f4a7c15ull * (static_cast<uint64_t>(static_cast<int64_t>(parent)) + 2);
  for (int i = 0; i < kKvBlockTokens; i++) {
    hash = (hash ^ static_cast<uint32_t>(tokens[i])) * 0xff51afd7ed558ccdull;
    hash ^= hash >> 32;
  }
  return hash;
}

int32_t KvTexts::find(int32_t parent, const int32_t* tokens) const {
  const auto [begin, end] = by_key_.equal_range(key_of(parent, tokens));
  for (auto it = begin; it != end; ++it) {
    const Text& text = texts_[it->second];
    if (text.parent == parent && std::memcmp(text.tokens, tokens, sizeof(text.tokens)) == 0) return it->second;
  }
  return kNoText;
}

int32_t KvTexts::add(int32_t parent, const int32_t* tokens, bool decoded) {
  if (free_.empty()) {
    free_.push_back(static_cast<int32_t>(texts_.size()));
    texts_.emplace_back();
    places_.resize(texts_.size() * classes_);
  }
  const int32_t id = free_.back();
  free_.pop_back();
  Text& text = texts_[id];
  text = {};
  text.parent = parent;
  text.decoded = decoded;
  text.key = key_of(parent, tokens);
  text.serial = ++serials_;
  std::memcpy(text.tokens, tokens, sizeof(text.tokens));
  int32_t& first = first_child(parent);
  text.next = first;
  if (first != kNoText) texts_[first].before = id;
  first = id;
  by_key_.emplace(text.key, id);
  return id;
}

void KvTexts::remove(int32_t id, const std::function<void(int32_t)>& each) {
  const Text& top = texts_[id];
  (top.before == kNoText ? first_child(top.parent) : texts_[top.before].next) = top.next;
  if (top.next != kNoText) texts_[top.next].before = top.before;
  std::vector<int32_t> all = {id};
  for (size_t i = 0; i < all.size(); i++) {
    for (int32_t child = texts_[all[i]].first_child; child != kNoText; child = texts_[child].next) {
      all.push_back(child);
    }
  }
  // Those that continue others first: blocks that are useless without them are given out sooner.
  for (size_t i = all.size(); i-- > 0;) {
    const int32_t one = all[i];
    each(one);
    const auto [begin, end] = by_key_.equal_range(texts_[one].key);
    for (auto it = begin; it != end; ++it) {
      if (it->second == one) {
        by_key_.erase(it);
        break;
      }
    }
    texts_[one].serial = 0;
    for (int c = 0; c < classes_; c++) place(one, c) = {};
    free_.push_back(one);
  }
}

void KvTexts::remove_all(const std::function<void(int32_t)>& each) {
  while (first_ != kNoText) remove(first_, each);
}

}  // namespace millrace
