#include "engine/kv_pool.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"

namespace millrace {

KvPool::KvPool(std::vector<Device> devices, const ModelSpec& spec, int blocks, size_t swap_bytes)
    : devices_(std::move(devices)),
      places_(spec.layers),
      block_bytes_(kv_block_bytes(spec)),
      total_(blocks),
      window_(spec.sliding_window),
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

std::byte* KvPool::address(int layer, int32_t block) const {
  const Place& place = places_[layer];
  return memory_[place.device]->data() + (static_cast<size_t>(place.index) * total_ + block) * block_bytes_;
}

std::vector<int> KvPool::places(int device) const {
  std::vector<int> places;
  for (const Place& place : places_) places.push_back(place.device == device ? place.index : -1);
  return places;
}

void KvPool::take(int32_t id) {
  if (blocks_[id].users++ == 0) {
    used_++;
    if (blocks_[id].remembered) idle_.erase(blocks_[id].idle);
  }
}

void KvPool::forget(int32_t id) {
  Block& block = blocks_[id];
  const auto [begin, end] = by_key_.equal_range(block.key);
  for (auto it = begin; it != end; ++it) {
    if (it->second == id) {
      by_key_.erase(it);
      break;
    }
  }
  block.remembered = false;
  if (block.users == 0) {
    idle_.erase(block.idle);
    free_.push_back(id);
  }
}

bool KvPool::allocate(int count, std::vector<int32_t>& out) {
  if (count > available()) return false;
  for (int i = 0; i < count; i++) {
    int32_t id;
    if (!free_.empty()) {
      id = free_.back();
      free_.pop_back();
    } else {
      forget(idle_.front());
      id = free_.back();
      free_.pop_back();
    }
    blocks_[id].generation++;
    take(id);
    out.push_back(id);
  }
  return true;
}

void KvPool::give_back(int32_t id) {
  Block& block = blocks_[id];
  if (--block.users > 0) return;
  used_--;
  if (block.remembered) {
    block.idle = idle_.insert(idle_.end(), id);
  } else {
    free_.push_back(id);
  }
}

void KvPool::release(std::vector<int32_t>& blocks) {
  drop(blocks, 0, static_cast<int>(blocks.size()));
  blocks.clear();
}

void KvPool::drop(std::vector<int32_t>& blocks, int begin, int end) {
  // From the end, so that of one sequence the later blocks, useless without the earlier, are taken back first.
  for (int i = end - 1; i >= begin; i--) {
    if (blocks[i] == kNoBlock) continue;
    give_back(blocks[i]);
    blocks[i] = kNoBlock;
  }
}

uint64_t KvPool::key_of(int32_t parent, const int32_t* tokens) const {
  uint64_t hash = parent < 0
                      ? 0x9e3779b97f4a7c15ull
                      : (static_cast<uint64_t>(parent) << 32) ^ blocks_[parent].generation * 0xd6e8feb86659fd93ull;
  for (int i = 0; i < kKvBlockTokens; i++) {
    hash = (hash ^ static_cast<uint32_t>(tokens[i])) * 0xff51afd7ed558ccdull;
    hash ^= hash >> 32;
  }
  return hash;
}

int32_t KvPool::find(int32_t parent, const int32_t* tokens) const {
  const auto [begin, end] = by_key_.equal_range(key_of(parent, tokens));
  for (auto it = begin; it != end; ++it) {
    const Block& block = blocks_[it->second];
    const bool same_parent =
        block.parent == parent && (parent < 0 || block.parent_generation == blocks_[parent].generation);
    if (same_parent && std::memcmp(block.tokens, tokens, sizeof(block.tokens)) == 0) return it->second;
  }
  return -1;
}

void KvPool::reuse(std::span<const int32_t> tokens, bool prefill_only, std::vector<int32_t>& out) {
  const int most = (static_cast<int>(tokens.size()) - 1) / kKvBlockTokens;
  int32_t parent = -1;
  for (int i = 0; i < most; i++) {
    const int32_t id = find(parent, tokens.data() + i * kKvBlockTokens);
    if (id < 0 || (prefill_only && blocks_[id].decoded)) return;
    take(id);
    out.push_back(id);
    parent = id;
  }
}

void KvPool::remember(std::span<const int32_t> tokens, std::span<int32_t> blocks, int index, bool decoded) {
  const int32_t parent = index == 0 ? -1 : blocks[index - 1];
  const int32_t* own = tokens.data() + static_cast<size_t>(index) * kKvBlockTokens;
  Block& block = blocks_[blocks[index]];
  // Only what continues something remembered can be found again.
  if (block.remembered || (parent >= 0 && !blocks_[parent].remembered)) return;
  block.decoded = decoded || (parent >= 0 && blocks_[parent].decoded);
  // Of two that hold the same text one is remembered: the first, unless it was decoded and this one was not.
  if (const int32_t known = find(parent, own); known >= 0) {
    if (!block.decoded && !blocks_[known].decoded) {  // the same bits: what follows continues the one that is found
      take(known);
      give_back(blocks[index]);
      blocks[index] = known;
      return;
    }
    if (block.decoded || !blocks_[known].decoded) return;
    forget(known);
  }
  block.remembered = true;
  block.parent = parent;
  block.parent_generation = parent < 0 ? 0 : blocks_[parent].generation;
  std::memcpy(block.tokens, own, sizeof(block.tokens));
  block.key = key_of(parent, own);
  by_key_.emplace(block.key, blocks[index]);
}

void KvPool::copy(Way way, int32_t block, int32_t slot) {
  std::byte* saved = swap_.data(slot);
  for (size_t layer = 0; layer < places_.size(); layer++, saved += block_bytes_) {
    std::byte* own = address(static_cast<int>(layer), block);
    stream_of(layer).copy(way == Way::out ? saved : own, way == Way::out ? own : saved, block_bytes_);
  }
}

bool KvPool::save(std::vector<int32_t>& blocks, SavedKv& saved) {
  const int dropped = static_cast<int>(std::count(blocks.begin(), blocks.end(), kNoBlock));
  std::vector<int32_t> slots;
  if (!swap_.take(static_cast<int>(blocks.size()) - dropped, slots)) return false;
  size_t at = 0;
  try {
    for (const int32_t block : blocks) {
      if (block != kNoBlock) copy(Way::out, block, slots[at++]);
    }
  } catch (...) {
    swap_.give_back(slots);
    throw;
  }
  saved = {std::move(slots), dropped};
  release(blocks);
  return true;
}

void KvPool::restore(SavedKv& saved, std::vector<int32_t>& blocks) {
  if (saved.slots.empty()) return;
  blocks.assign(static_cast<size_t>(saved.dropped), kNoBlock);
  allocate(static_cast<int>(saved.slots.size()), blocks);
  for (size_t i = 0; i < saved.slots.size(); i++) copy(Way::in, blocks[saved.dropped + i], saved.slots[i]);
  discard(saved);
}

// Copies to or from the slots may be under way still: whoever has one next copies on the same streams, after them.
void KvPool::discard(SavedKv& saved) {
  swap_.give_back(saved.slots);
  saved = {};
}

}  // namespace millrace
