#include "engine/kv_pool.h"

namespace millrace {

KvPool::KvPool(Backend& backend, const ModelSpec& spec, int blocks)
    : total_(blocks),
      memory_(backend.allocate(static_cast<size_t>(blocks) * spec.layers * kv_block_bytes(spec), "the KV cache")) {
  free_.reserve(blocks);
  for (int32_t id = blocks - 1; id >= 0; id--) free_.push_back(id);
}

bool KvPool::allocate(int count, std::vector<int32_t>& out) {
  if (count > static_cast<int>(free_.size())) return false;
  for (int i = 0; i < count; i++) {
    out.push_back(free_.back());
    free_.pop_back();
  }
  return true;
}

void KvPool::release(std::vector<int32_t>& blocks) {
  free_.insert(free_.end(), blocks.rbegin(), blocks.rend());
  blocks.clear();
}

}  // namespace millrace
