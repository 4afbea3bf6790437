#include "engine/kv_blocks.h"

namespace millrace {

KvBlocks::KvBlocks(const KvClass& kind, std::vector<Device> devices, int blocks, size_t swap_bytes)
    : kind_(kind),
      devices_(std::move(devices)),
      places_(kind.layers),
      block_bytes_(kv_block_bytes(kind)),
      blocks_(blocks),
      swap_(swap_bytes, places_.size() * block_bytes_,
            devices_[0].backend->reads_host_memory() ? Pinner{} : devices_[0].backend->pinner()) {
  for (size_t device = 0; device < devices_.size(); device++) {
    const std::vector<int>& layers = devices_[device].layers;
    for (size_t i = 0; i < layers.size(); i++) places_[layers[i]] = {static_cast<int>(device), static_cast<int>(i)};
    const size_t bytes = static_cast<size_t>(blocks) * layers.size() * block_bytes_;
    memory_.push_back(devices_[device].backend->allocate(bytes, "the KV cache"));
  }
  free_.reserve(blocks);
  for (int32_t id = blocks - 1; id >= 0; id--) free_.push_back(id);
}

void KvBlocks::take(int32_t id) {
  if (blocks_[id].users++ > 0) return;
  used_++;
  if (blocks_[id].remembered) idle_.erase(blocks_[id].idle);
}

void KvBlocks::give_back(int32_t id) {
  Block& block = blocks_[id];
  if (--block.users > 0) return;
  used_--;
  if (block.remembered) {
    block.idle = idle_.insert(idle_.end(), id);
  } else {
    free_.push_back(id);
  }
}

void KvBlocks::forget(int32_t id) {
  Block& block = blocks_[id];
  if (!block.remembered) return;
  block.remembered = false;
  if (block.users > 0) return;
  idle_.erase(block.idle);
  free_.push_back(id);
}

bool KvBlocks::allocate(int count, std::vector<int32_t>& out) {
  if (count > available()) return false;
  for (int i = 0; i < count; i++) {
    if (free_.empty()) {
      const int32_t oldest = idle_.front();
      if (reclaim_) reclaim_(oldest);
      forget(oldest);
    }
    const int32_t id = free_.back();
    free_.pop_back();
    blocks_[id].generation++;
    take(id);
    out.push_back(id);
  }
  return true;
}

void KvBlocks::drop(std::vector<int32_t>& list, int begin, int end) {
  for (int i = end - 1; i >= begin; i--) {
    if (list[i] == kNoBlock) continue;
    give_back(list[i]);
    list[i] = kNoBlock;
  }
}

void KvBlocks::copy(bool out, int32_t block, int32_t slot) {
  std::byte* saved = swap_.data(slot);
  for (const Place& place : places_) {
    std::byte* own =
        memory_[place.device]->data() + (static_cast<size_t>(place.index) * blocks_.size() + block) * block_bytes_;
    devices_[place.device].compute->copy(out ? saved : own, out ? own : saved, block_bytes_);
    saved += block_bytes_;
  }
}

KvMemory KvBlocks::memory(int device) const {
  KvMemory memory;
  memory.data = memory_[device]->data();
  memory.blocks = total();
  for (const Place& place : places_) memory.places.push_back(place.device == device ? place.index : -1);
  return memory;
}

}  // namespace millrace
