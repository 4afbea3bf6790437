#pragma once
// The blocks of one class of layers: ids counted by their users, memory on whatever devices the layers are, and room in
// system RAM for those of preempted sequences. A remembered block that nobody uses is given to somebody new last, the
// one that has been idle longest first; the pool that remembers (kv_pool.h) hears of it.
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "engine/kv_swap.h"

namespace millrace {

// In a sequence's list of blocks: one that lies behind the window and was given back.
inline constexpr int32_t kNoBlock = -1;

class KvBlocks {
 public:
  // Where the keys and values of some of the class's layers are.
  struct Device {
    Backend* backend;
    Stream* compute;          // copies between the tiers are enqueued here, in order with the passes
    std::vector<int> layers;  // of the class, computed there
  };
  KvBlocks(const KvClass& kind, std::vector<Device> devices, int blocks, size_t swap_bytes);

  int window() const { return kind_.window; }
  int total() const { return static_cast<int>(blocks_.size()); }
  int used() const { return used_; }
  int available() const { return total() - used_; }

  // Appends `count` blocks, each used once, or none and returns false.
  bool allocate(int count, std::vector<int32_t>& out);
  void take(int32_t id);
  void give_back(int32_t id);
  // Of blocks [begin, end) of a list, which become kNoBlock: from the end, so that the later ones, useless without the
  // earlier, are taken back first.
  void drop(std::vector<int32_t>& list, int begin, int end);

  bool remembered(int32_t id) const { return blocks_[id].remembered; }
  void set_remembered(int32_t id) { blocks_[id].remembered = true; }
  // One that nobody uses is free from then on.
  void forget(int32_t id);
  // Grows when the block is given to somebody new.
  uint64_t generation(int32_t id) const { return blocks_[id].generation; }
  // Called with a remembered block that is about to be given to somebody new; it must be forgotten.
  void on_reclaim(std::function<void(int32_t)> hook) { reclaim_ = std::move(hook); }

  // ---- System RAM. Copies are enqueued on the streams of the layers' devices.
  KvSwap& swap() { return swap_; }
  const KvSwap& swap() const { return swap_; }
  void save(int32_t block, int32_t slot) { copy(true, block, slot); }
  void restore(int32_t slot, int32_t block) { copy(false, block, slot); }

  // Of a device, for KvMemory.
  KvMemory memory(int device) const;
  size_t bytes(int device) const { return memory_[device]->size(); }
  size_t block_bytes() const { return places_.size() * block_bytes_; }  // of all layers

 private:
  struct Block {
    int users = 0;
    bool remembered = false;
    uint64_t generation = 0;
    std::list<int32_t>::iterator idle;  // its place among unused remembered blocks
  };
  struct Place {
    int device = -1;
    int index = 0;  // of the device's layers
  };
  void copy(bool out, int32_t block, int32_t slot);

  KvClass kind_;
  std::vector<Device> devices_;
  std::vector<Place> places_;  // [layers]
  size_t block_bytes_;         // of one layer
  int used_ = 0;
  std::vector<std::unique_ptr<Memory>> memory_;  // [devices]
  std::vector<Block> blocks_;
  std::vector<int32_t> free_;  // taken from the back: recently used blocks are warm
  std::list<int32_t> idle_;    // remembered and unused, least recently used first
  std::function<void(int32_t)> reclaim_;
  KvSwap swap_;
};

}  // namespace millrace
