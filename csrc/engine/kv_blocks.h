#pragma once
// The blocks of one class of layers: ids counted by their users, memory on whatever devices the layers are, and room in
// system RAM for those that leave it. A remembered block that nobody uses is given to somebody new last, the one that
// has been idle longest first; the pool that remembers (kv_pool.h) hears of it, and may save it.
//
// Copies to and from there go on streams of their own, beside the passes, and nobody waits for them but who must:
//
//   save      copies: wait for what compute was handed, unless all that writes to the blocks has run
//                     | blocks -> slots, some at a time, the last ones first
//             a block of them that is given to somebody new: compute waits for its copy
//   restore   copies: wait for what compute was handed | slots -> blocks
//             before the sequence's next row: compute waits for its copies
#include <algorithm>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "engine/kv_swap.h"

namespace millrace {

// In a sequence's list of blocks: one that lies behind the window and was given back.
inline constexpr int32_t kNoBlock = -1;
// In that of one that is about to begin: what it finds is in system RAM.
inline constexpr int32_t kInRam = -2;

// Of an 8B model 32 MB: compute waits for less than a millisecond where it needs one of them at once.
inline constexpr size_t kMovedTogether = 16;

// For the tests that prove each wait necessary: the nth of a kind is left out.
struct KvHooks {
  int64_t skip_reuse_wait = -1;    // of compute, for a block whose copy to system RAM is under way
  int64_t skip_arrival_wait = -1;  // of compute, for a block that comes from there
  int64_t skip_handed_wait = -1;   // of copies, for what compute was handed
};

class KvBlocks {
 public:
  // Where the keys and values of some of the class's layers are.
  struct Device {
    Backend* backend;
    Stream* compute;
    std::function<Stream&()> copies;  // between the tiers
    std::vector<int> layers;          // of the class, computed there
  };
  KvBlocks(const KvClass& kind, std::vector<Device> devices, int blocks, size_t swap_bytes, KvHooks hooks = {});

  int window() const { return kind_.window; }
  // A block is what a sequence has of it, whatever its length.
  bool state() const { return kind_.state > 0; }
  int total() const { return static_cast<int>(blocks_.size()); }
  int used() const { return used_; }
  int available() const { return total() - used_; }
  // What is remembered goes before fewer than so many are free: they are taken last.
  void keep_free(int count) { kept_free_ = count; }
  // Of them, those that are.
  int kept_free() const { return std::min(kept_free_, free()); }

  // Appends `count` blocks, each used once, or none and returns false.
  bool allocate(int count, std::vector<int32_t>& out);
  // The same of free ones, kept so or not: nothing that is remembered goes.
  bool allocate_free(int count, std::vector<int32_t>& out);
  // allocate(1) would take none of those that are kept free.
  bool has_beside_free() const { return free() > kept_free_ || !idle_.empty(); }
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
  // Called with remembered blocks that are about to be given to somebody new, those first that were idle longest: they
  // are forgotten after it.
  void on_reclaim(std::function<void(std::span<const int32_t>)> hook) { reclaim_ = std::move(hook); }

  // ---- System RAM.
  KvSwap& swap() { return swap_; }
  const KvSwap& swap() const { return swap_; }
  // The blocks may be given back at once, and whoever has slots next copies on the same streams, after this.
  // `complete`: whatever writes to them has run, by the host's knowledge.
  void save(std::span<const int32_t> blocks, std::span<const int32_t> slots, bool complete) {
    move(true, blocks, slots, complete);
  }
  void restore(std::span<const int32_t> slots, std::span<const int32_t> blocks) { move(false, blocks, slots, false); }
  // What compute is handed from here on finds in block `to` what `from` has by then.
  void copy(int32_t from, int32_t to);
  // None of them (kNoBlock: none) is being copied.
  bool at_rest(std::span<const int32_t> blocks) const;
  // Compute comes behind whatever copies of them there were.
  bool settled(std::span<const int32_t> blocks) const;
  // What compute is handed from here on comes after the copies of these.
  void settle(std::span<const int32_t> blocks);
  // All copies have ended.
  void all_at_rest() { moves_.assign(blocks_.size(), nullptr); }

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
  // Some blocks' way to or from system RAM.
  struct Move {
    std::vector<std::unique_ptr<Event>> done;  // of each device
    bool out = false;
    bool awaited = false;  // by compute
  };
  // That nobody uses and nothing is remembered in.
  int free() const { return static_cast<int>(free_.size()); }
  void take_free(std::vector<int32_t>& out);
  void move(bool out, std::span<const int32_t> blocks, std::span<const int32_t> slots, bool complete);
  void settle(int32_t block);

  KvClass kind_;
  std::vector<Device> devices_;
  std::vector<Place> places_;  // [layers]
  size_t block_bytes_;         // of one layer
  int used_ = 0;
  int kept_free_ = 0;
  std::vector<std::unique_ptr<Memory>> memory_;  // [devices]
  std::vector<Block> blocks_;
  std::vector<std::shared_ptr<Move>> moves_;  // [blocks], the last one that compute has not waited for; or null
  std::deque<int32_t> free_;  // taken from the back: recently used blocks are warm; those being copied come last
  std::list<int32_t> idle_;   // remembered and unused, least recently used first
  std::function<void(std::span<const int32_t>)> reclaim_;
  std::vector<std::unique_ptr<Event>> handed_;  // of each device: what compute had been handed
  KvHooks hooks_;
  int64_t reuse_waits_ = 0, arrival_waits_ = 0, handed_waits_ = 0;
  KvSwap swap_;
};

}  // namespace millrace
