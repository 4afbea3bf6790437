#pragma once
// The paged KV cache of one model. Layers whose keys and values are kept for as long share a class with blocks of its
// own (kv_blocks.h); a sequence has a list of blocks in each. Full blocks are remembered by the tokens that led to
// them, so that a request whose text begins like an earlier one finds its keys and values computed (block-level prefix
// reuse). One class leads: its blocks are found by their text, those of the others by the leader's block of the same
// positions. Of a class with a window only the blocks that the next row sees need to be there still. States go forward
// alone, so copies of them are kept where one of the leader's blocks ends, in blocks of their class that no sequence
// has (kv_states.cc): a text is found as far as there is one, and goes on with a copy of it. A preempted sequence's
// blocks rest in system RAM, as far as there is room for them (kv_swap.h), and come back as they were. What these leave
// of it has the remembered blocks that are given to somebody new (kv_tier.cc): their texts are found as before, and
// come back the same way.
#include <cstdint>
#include <list>
#include <memory>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "engine/kv_blocks.h"
#include "engine/kv_texts.h"

namespace millrace {

// A sequence's blocks, by class and index.
using BlockLists = std::vector<std::vector<int32_t>>;

// A preempted sequence's keys and values.
struct SavedKv {
  struct OfClass {
    std::vector<int32_t> slots;  // of the class's swap, one a block: [layers, block bytes]
    int dropped = 0;             // kNoBlock, before those
  };
  std::vector<OfClass> classes;
  bool empty() const {
    for (const OfClass& one : classes) {
      if (!one.slots.empty()) return false;
    }
    return true;
  }
};

class KvPool {
 public:
  struct Device {
    Backend* backend;
    Stream* compute;
    std::vector<std::vector<int>> layers;  // [classes], computed there
  };
  // Every layer is on one of the devices. `blocks`: of each class. `swap_bytes`: of system RAM, for what is saved.
  KvPool(std::span<const Device> devices, std::span<const KvClass> classes, std::span<const int> blocks,
         size_t swap_bytes, KvHooks hooks = {});

  int classes() const { return static_cast<int>(classes_.size()); }
  KvBlocks& of(int kv_class) { return *classes_[kv_class]; }
  const KvBlocks& of(int kv_class) const { return *classes_[kv_class]; }

  // Gives up one use of each; what was remembered stays so until its block is needed. Leaves the lists empty.
  void release(BlockLists& blocks);

  // What a sequence may begin with. Texts of it that are in system RAM are held there until it has begun, or gives up.
  struct Prefix {
    int blocks = 0;               // of positions that need no computing
    int known = 0;                // of positions whose keys and values are remembered, states or not
    int returning = 0;            // of the leader's blocks: in system RAM
    std::vector<int32_t> states;  // [classes] what is kept of the states behind them, in use; or kInRam, kNoBlock
    struct Held {
      int32_t text;
      uint64_t serial;
      int32_t slot;
      int index;  // of the sequence's list of blocks
    };
    std::vector<std::vector<Held>> held;  // [classes]
  };
  Prefix no_prefix() const;
  // The remembered blocks that hold the first tokens of `tokens`, with one more use of each; kNoBlock for those behind
  // a class's window, kInRam for those that rest there, and none of states: see begin_with(). At most (tokens - 1) /
  // kKvBlockTokens of them: the last token is always computed, for its logits. With `prefill_only`, stops at the first
  // block that holds tokens computed by decoding.
  Prefix reuse(std::span<const int32_t> tokens, bool prefill_only, BlockLists& blocks);
  // The sequence goes on with what reuse() found: blocks come back from system RAM, with nothing held there any longer,
  // and of states it has a copy, or where no block is left for one those themselves. False, with some of it done, where
  // blocks are wanting. What comes may be computed with once it was settled.
  bool begin_with(Prefix& prefix, BlockLists& blocks);
  // It does not: nothing is held or in use for it, but for its blocks.
  void give_up(Prefix& prefix);
  // Remembers the blocks as holding the keys and values of tokens [16 * index, 16 * index + 16) of a sequence.
  // `decoded`: not all of them were computed by prefill.
  void remember(std::span<const int32_t> tokens, BlockLists& blocks, int index, bool decoded);

  // ---- States behind drafts: of a sequence's list the first is its own; what a pass with drafts leaves behind each of
  // its rows is in the block of that index (Step).
  // What is behind that row is the sequence's own from here on, the other blocks are free.
  void choose_states(BlockLists& blocks, int row);
  // Blocks of states that drafts may take, one each; INT_MAX: it needs none.
  int free_states() const;
  // So many blocks of each class of states are for drafts: not taken by copies, and by sequences last.
  void keep_free_states(int count);

  // ---- States that are kept beside those of sequences.
  // A block of each class of states, or none and returns false.
  bool allocate_states(std::vector<int32_t>& kept);
  // What compute is handed from here on finds there a copy of the sequence's own; of one with drafts, of what is behind
  // that row of its last pass.
  void copy_states(const BlockLists& blocks, std::span<const int32_t> kept, int row = 0);
  // Block `index` of the sequence has been remembered, or was not worth it, and `kept` are the states behind it: may be
  // found from now on, or are given up. Leaves `kept` with what was remembered.
  void remember_states(const BlockLists& blocks, int index, std::vector<int32_t>& kept);
  // Nobody has use for them. They may be under way still, and whoever has the blocks next comes behind that.
  void give_up_states(std::vector<int32_t>& kept);
  // Of what remember_states() left, unless it was found or replaced since; `generations`: as they were then.
  void forget_states(std::span<const int32_t> kept, std::span<const uint64_t> generations);

  // Blocks to system RAM and back, on streams of their own: the host waits for nothing (see kv_blocks.h). save() leaves
  // `blocks` empty, or returns false where there is no room for them and leaves them as they are; restore() needs as
  // many available ones as there are slots. What was restored may be computed with once it was settled; it is at rest
  // when that takes no time.
  bool save(BlockLists& blocks, SavedKv& saved);
  void restore(SavedKv& saved, BlockLists& blocks);
  void discard(SavedKv& saved);
  bool at_rest(const BlockLists& blocks) const;
  bool settled(const BlockLists& blocks) const;
  void settle(const BlockLists& blocks);
  // Waits for all such copies; false if one has failed since the last call, and with it what followed it: nothing is
  // remembered then.
  bool rest();

  // Of the leading class, as users know the cache.
  int total() const { return classes_[leader_]->total(); }
  int used() const { return classes_[leader_]->used(); }
  size_t bytes(int device) const;
  size_t swap_bytes() const;
  size_t saved_bytes() const;  // of that, preempted sequences'
  size_t tier_bytes() const;   // and texts'

  static int blocks_for(int tokens) { return (tokens + kKvBlockTokens - 1) / kKvBlockTokens; }
  // Blocks of a class that let one sequence of so long a context run in steps of so many rows.
  static int least_blocks(const KvClass& kind, int context, int max_rows);

 private:
  KvBlocks& leader() { return *classes_[leader_]; }
  const KvBlocks& leader() const { return *classes_[leader_]; }
  // The text whose keys and values of the class a block holds, or kNoText.
  int32_t text_of(int kv_class, int32_t block) const { return texts_of_[kv_class][block]; }
  // Has nothing of the class yet, or in system RAM alone, which is free then. False where it has, or the block holds
  // another's.
  bool put(int kv_class, int32_t text, int32_t block);
  // The block holds it no longer.
  void take_from(int kv_class, int32_t block);
  void remove(int32_t text) {
    texts_.remove(text, [this](int32_t one) { forget(one); });
  }
  void forget(int32_t text);  // its places, of all classes

  // ---- Texts in system RAM (kv_tier.cc).
  // The blocks are about to be given to somebody new: what they hold goes there.
  void reclaim(int kv_class, std::span<const int32_t> blocks);
  // Those slots for a preempted sequence or for a text, for which the texts that have rested longest give up theirs.
  bool take_slots(int kv_class, int count, std::vector<int32_t>& slots);
  void give_up_oldest(int kv_class);
  void let_rest(int kv_class, int32_t text);
  void let_go(int kv_class, KvTexts::Place& place);  // of its slot
  void give_back_slot(int kv_class, int32_t slot);
  void hold(Prefix& prefix, int kv_class, int32_t text, int index);
  // Its slot is the text's again, if there is one still that `rests`, or free.
  void free_held(int kv_class, const Prefix::Held& held, bool rests);
  bool bring_back(Prefix& prefix, int kv_class, std::vector<int32_t>& blocks);

  // The first block that a row at the beginning of block `index` sees.
  static int first_seen(int window, int index);

  struct Copies {
    Backend* backend;
    std::unique_ptr<Stream> stream;  // once there is something to copy
  };

  int leader_ = 0;
  std::vector<Copies> copies_;  // [devices]; it outlives the classes
  std::vector<std::unique_ptr<KvBlocks>> classes_;
  KvTexts texts_;
  std::vector<std::vector<int32_t>> texts_of_;  // [classes, blocks]
  std::vector<std::list<int32_t>> resting_;     // [classes] texts in system RAM, from the longest there on
  std::vector<int> tier_slots_;                 // [classes] that texts have
};

}  // namespace millrace
