#pragma once
// Sequences of plain values, each kept once under a number.
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace millrace::constraint {

template <typename T>
class Interned {
 public:
  Interned() { clear(); }

  void clear() {
    values_.clear();
    begins_.assign(1, 0);
    hashes_.clear();
    slots_.assign(64, 0);
  }

  uint32_t size() const { return static_cast<uint32_t>(begins_.size() - 1); }
  std::span<const T> operator[](uint32_t id) const {
    return {values_.data() + begins_[id], begins_[id + 1] - begins_[id]};
  }

  // The number of these values, which are not part of what is kept.
  uint32_t intern(std::span<const T> values) {
    const uint64_t hash = hash_of(values);
    for (size_t slot = hash & (slots_.size() - 1);; slot = (slot + 1) & (slots_.size() - 1)) {
      if (slots_[slot] == 0) break;
      const uint32_t id = slots_[slot] - 1;
      if (hashes_[id] == hash && same((*this)[id], values)) return id;
    }
    const uint32_t id = size();
    const size_t begin = values_.size();
    values_.resize(begin + values.size());
    if (!values.empty()) std::memcpy(values_.data() + begin, values.data(), values.size() * sizeof(T));
    begins_.push_back(values_.size());
    hashes_.push_back(hash);
    if (2 * size() > slots_.size()) grow();
    place(id);
    return id;
  }

  size_t bytes() const {
    return values_.capacity() * sizeof(T) + begins_.capacity() * sizeof(size_t) +
           hashes_.capacity() * sizeof(uint64_t) + slots_.capacity() * sizeof(uint32_t);
  }

 private:
  static bool same(std::span<const T> a, std::span<const T> b) {
    return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
  }

  static uint64_t hash_of(std::span<const T> values) {
    static_assert(sizeof(T) % sizeof(uint32_t) == 0);
    uint64_t hash = 0x9e3779b97f4a7c15 ^ values.size();
    const auto* bytes = reinterpret_cast<const unsigned char*>(values.data());
    for (size_t i = 0; i < values.size() * sizeof(T); i += sizeof(uint32_t)) {
      uint32_t word;
      std::memcpy(&word, bytes + i, sizeof(word));
      hash = (hash ^ word) * 0xff51afd7ed558ccd;
      hash ^= hash >> 32;
    }
    return hash;
  }

  void place(uint32_t id) {
    size_t slot = hashes_[id] & (slots_.size() - 1);
    while (slots_[slot] != 0) slot = (slot + 1) & (slots_.size() - 1);
    slots_[slot] = id + 1;
  }

  void grow() {
    slots_.assign(slots_.size() * 2, 0);
    for (uint32_t id = 0; id + 1 < size(); id++) place(id);
  }

  std::vector<T> values_;
  std::vector<size_t> begins_;
  std::vector<uint64_t> hashes_;
  std::vector<uint32_t> slots_;
};

}  // namespace millrace::constraint
