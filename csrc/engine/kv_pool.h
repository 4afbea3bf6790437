#pragma once
// The paged KV cache of one model: block ids, one id for all layers on whatever device they are, counted by their
// users. Full blocks are remembered by the tokens that led to them, so that a request whose text begins like an earlier
// one finds its keys and values computed (block-level prefix reuse); a remembered block that nobody uses is taken back,
// oldest first, when blocks run out. A preempted sequence's blocks rest in system RAM, as far as there is room for them
// (kv_swap.h), and come back as they were.
#include <cstdint>
#include <list>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "backend/backend.h"
#include "engine/kv_swap.h"

namespace millrace {

// In a sequence's list of blocks: one that lies behind the sliding window and was given back.
inline constexpr int32_t kNoBlock = -1;

// A preempted sequence's keys and values.
struct SavedKv {
  std::vector<int32_t> slots;  // of the swap, one a block: [layers, block bytes]
  int dropped = 0;             // kNoBlock, before those
};

class KvPool {
 public:
  // Where the keys and values of some layers are.
  struct Device {
    Backend* backend;
    Stream* compute;          // copies between the tiers are enqueued here, in order with the passes
    std::vector<int> layers;  // computed there
  };
  // Every layer is on one of the devices. `swap_bytes`: of system RAM, for what is saved.
  KvPool(std::vector<Device> devices, const ModelSpec& spec, int blocks, size_t swap_bytes);

  // Appends `count` blocks, each used once, or none and returns false.
  bool allocate(int count, std::vector<int32_t>& out);
  // Gives up one use of each; what was remembered stays so until its block is needed. Leaves `blocks` empty.
  void release(std::vector<int32_t>& blocks);
  // The same of blocks [begin, end), which become kNoBlock.
  void drop(std::vector<int32_t>& blocks, int begin, int end);

  // Appends the remembered blocks that hold the first tokens of `tokens`, with one more use of each. At most
  // (tokens - 1) / kKvBlockTokens of them: the last token is always computed, for its logits. With `prefill_only`,
  // stops at the first block that holds tokens computed by decoding.
  void reuse(std::span<const int32_t> tokens, bool prefill_only, std::vector<int32_t>& out);
  // Remembers the block as holding the keys and values of tokens [16 * index, 16 * index + 16) of a sequence whose
  // blocks before are `blocks`. `decoded`: not all of them were computed by prefill.
  void remember(std::span<const int32_t> tokens, std::span<int32_t> blocks, int index, bool decoded);

  // Blocks to system RAM and back, in the order of the devices' compute streams: nobody waits. save() leaves `blocks`
  // empty, or returns false where there is no room for them and leaves them as they are; restore() needs as many
  // available ones as there are slots.
  bool save(std::vector<int32_t>& blocks, SavedKv& saved);
  void restore(SavedKv& saved, std::vector<int32_t>& blocks);
  void discard(SavedKv& saved);

  int total() const { return total_; }
  int window() const { return window_; }  // positions that a row sees, its own counted; 0: all
  int used() const { return used_; }
  int available() const { return total_ - used_; }
  size_t bytes(int device) const { return memory_[device]->size(); }
  std::byte* data(int device) const { return memory_[device]->data(); }
  // [layers], for ExecutorConfig.
  std::vector<int> places(int device) const;
  const KvSwap& swap() const { return swap_; }

  static int blocks_for(int tokens) { return (tokens + kKvBlockTokens - 1) / kKvBlockTokens; }

 private:
  struct Block {
    int users = 0;
    bool remembered = false;
    bool decoded = false;
    uint64_t key = 0;     // of what is remembered
    int32_t parent = -1;  // block before it, -1: the first
    uint64_t parent_generation = 0;
    uint64_t generation = 0;  // grows when the block is given to somebody new: a parent may be gone and its id reused
    int32_t tokens[kKvBlockTokens];
    std::list<int32_t>::iterator idle;  // its place among unused remembered blocks
  };

  void take(int32_t id);
  void give_back(int32_t id);
  void forget(int32_t id);
  // The remembered block of these tokens after `parent`, or -1.
  int32_t find(int32_t parent, const int32_t* tokens) const;
  uint64_t key_of(int32_t parent, const int32_t* tokens) const;
  std::byte* address(int layer, int32_t block) const;
  enum class Way : uint8_t { out, in };
  void copy(Way way, int32_t block, int32_t slot);
  Stream& stream_of(size_t layer) const { return *devices_[places_[layer].device].compute; }

  struct Place {
    int device = -1;
    int index = 0;  // of the device's layers
  };

  std::vector<Device> devices_;
  std::vector<Place> places_;  // [layers]
  size_t block_bytes_;         // of one layer
  int total_;
  int window_;
  int used_ = 0;
  std::vector<std::unique_ptr<Memory>> memory_;  // [devices]
  std::vector<Block> blocks_;
  std::vector<int32_t> free_;  // taken from the back: recently used blocks are warm
  std::list<int32_t> idle_;    // remembered and unused, least recently used first
  std::unordered_multimap<uint64_t, int32_t> by_key_;
  KvSwap swap_;
};

}  // namespace millrace
