#include "stream/arena.h"

#include <map>
#include <string_view>

#include "core/error.h"
#include "stream/reclaim.h"

namespace millrace {

Arena& Arena::of(const std::string& device) {
  // Never destroyed, like the engine.
  static auto* mutex = new std::mutex;
  static auto* arenas = new std::map<std::string, Arena>;
  std::lock_guard lock(*mutex);
  return (*arenas)[device];
}

void Arena::join() {
  std::lock_guard lock(mutex_);
  tenants_++;
}

void Arena::leave() {
  std::lock_guard lock(mutex_);
  if (--tenants_ > 0) return;
  for (Block& block : blocks_) reclaim(std::move(block.memory));
  blocks_.clear();
  bytes_ = 0;
  limit_ = 0;
}

void Arena::drop(std::list<Block>::iterator block) {
  bytes_ -= block->memory->size();
  reclaim(std::move(block->memory));
  blocks_.erase(block);
}

void Arena::evict(Block& block) {
  Tenant* tenant = block.tenant;
  block.tenant = nullptr;
  evictions_++;
  tenant->evicted(block.unit);
}

void Arena::set_limit(size_t bytes) {
  limit_ = bytes;
  while (bytes_ > limit_) {
    const auto first = blocks_.begin();
    if (first->tenant != nullptr) evict(*first);
    drop(first);
  }
}

Arena::Block* Arena::take(Backend& backend, size_t bytes, Tenant& tenant, int unit) {
  const auto give = [&](std::list<Block>::iterator block) {
    block->tenant = &tenant;
    block->unit = unit;
    blocks_.splice(blocks_.end(), blocks_, block);
    return &*block;
  };
  const auto others = [&](const Block& block) { return block.tenant != &tenant; };
  // One of this size that is free, or the oldest of another tenant: no call of the driver.
  if (bytes_ + bytes > limit_) {
    // What is free goes first, of whatever size: nobody gives way to memory that lies idle.
    size_t idle = 0;
    for (auto block = blocks_.begin(); block != blocks_.end() && block->tenant == nullptr; ++block) {
      if (block->memory->size() == bytes) return give(block);
      idle += block->memory->size();
    }
    const bool room = bytes_ - idle + bytes <= limit_;
    for (auto block = blocks_.begin(); !room && block != blocks_.end(); ++block) {
      if (block->memory->size() != bytes || !others(*block)) continue;
      if (block->tenant != nullptr) evict(*block);
      return give(block);
    }
  } else {
    for (auto block = blocks_.begin(); block != blocks_.end() && block->tenant == nullptr; ++block) {
      if (block->memory->size() == bytes) return give(block);
    }
  }
  // Room for a new one: whatever is free or another tenant's goes, oldest first.
  size_t in_the_way = 0;
  for (const Block& block : blocks_) {
    if (others(block)) in_the_way += block.memory->size();
  }
  if (bytes_ - in_the_way + bytes > limit_) return nullptr;
  for (auto block = blocks_.begin(); bytes_ + bytes > limit_;) {
    const auto next = std::next(block);
    if (others(*block)) {
      if (block->tenant != nullptr) evict(*block);
      drop(block);
    }
    block = next;
  }
  std::unique_ptr<Memory> memory;
  while (!memory) {
    try {
      memory = allocate_after_reclaim(backend, bytes, "a shared unit");
    } catch (const Error& error) {
      if (std::string_view(error.code()) != code::kOutOfMemory) throw;
      // Somebody else has the device's memory: what is here is all there is to share.
      auto block = blocks_.begin();
      while (block != blocks_.end() && !others(*block)) ++block;
      if (block == blocks_.end()) return nullptr;  // the unit passes through the ring
      if (block->tenant != nullptr) evict(*block);
      if (block->memory->size() == bytes) return give(block);
      drop(block);
    }
  }
  bytes_ += memory->size();
  blocks_.push_back({std::move(memory), &tenant, unit, {}});
  blocks_.back().self = std::prev(blocks_.end());
  return &blocks_.back();
}

void Arena::touch(Block& block) {
  blocks_.splice(blocks_.end(), blocks_, block.self);
}

void Arena::give_back(Block& block) {
  block.tenant = nullptr;
  blocks_.splice(blocks_.begin(), blocks_, block.self);
  if (bytes_ > limit_) drop(block.self);
}

}  // namespace millrace
