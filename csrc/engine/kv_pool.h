#pragma once
// The paged KV cache of one model: block ids, one id for all layers. Room for blocks with a tier (device, host) and
// for prefix reuse.
#include <cstdint>
#include <memory>
#include <vector>

#include "backend/backend.h"

namespace millrace {

class KvPool {
 public:
  KvPool(Backend& backend, const ModelSpec& spec, int blocks);

  // Appends `count` block ids to `out`, or none and returns false.
  bool allocate(int count, std::vector<int32_t>& out);
  void release(std::vector<int32_t>& blocks);  // leaves it empty

  int total() const { return total_; }
  int used() const { return total_ - static_cast<int>(free_.size()); }
  std::byte* data() const { return memory_->data(); }
  size_t bytes() const { return memory_->size(); }

  static int blocks_for(int tokens) { return (tokens + kKvBlockTokens - 1) / kKvBlockTokens; }

 private:
  int total_;
  std::unique_ptr<Memory> memory_;
  std::vector<int32_t> free_;  // taken from the back: recently used blocks are warm
};

}  // namespace millrace
