#pragma once
// Device memory that the `shared` units of all models on one device rest in, as long as there is room: what was used
// longest ago gives way to what is needed now. Belongs to the device's worker, which runs one pass at a time of the
// models that share it: when a unit gives way, nobody reads it any more.
//
// A block that is given up is kept for the next unit of its size: switching between models of one shape asks the driver
// for nothing.
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>

#include "backend/backend.h"

namespace millrace {

class Arena {
 public:
  class Tenant {
   public:
    virtual ~Tenant() = default;
    // The unit's block is somebody else's from here on.
    virtual void evicted(int unit) = 0;
  };

  struct Block {
    std::unique_ptr<Memory> memory;
    Tenant* tenant = nullptr;  // null: free
    int unit = 0;
    std::list<Block>::iterator self;
  };

  // The arena of a device, by Backend::name(); one a process.
  static Arena& of(const std::string& device);

  // A model whose units may rest here, from before its first take() to its end, on any thread. When the last one has
  // left, all memory goes back to the device and the limit is 0 again. What it gives back the reclaiming thread frees.
  void join();
  void leave();

  // Bytes that it may take. Shrinking evicts at once; the memory is the device's again when the reclaiming thread has
  // run.
  void set_limit(size_t bytes);
  size_t limit() const { return limit_; }
  // Of blocks, free ones included.
  size_t bytes() const { return bytes_; }
  uint64_t evictions() const { return evictions_; }

  // A block for the unit, or null where all that would have to give way is the tenant's own, or the device has no more
  // memory.
  Block* take(Backend& backend, size_t bytes, Tenant& tenant, int unit);
  // The unit was used: it gives way last.
  void touch(Block& block);
  // The tenant needs it no more.
  void give_back(Block& block);

 private:
  void drop(std::list<Block>::iterator block);
  void evict(Block& block);

  std::mutex mutex_;  // of joining and leaving: the others are called by those that have joined alone
  int tenants_ = 0;
  size_t limit_ = 0;
  size_t bytes_ = 0;
  uint64_t evictions_ = 0;
  std::list<Block> blocks_;  // free ones first, then those used longest ago
};

}  // namespace millrace
