// Copies of states, by which a text that begins like an earlier one finds them as they were at that place.
#include <algorithm>
#include <climits>
#include <utility>

#include "engine/kv_pool.h"

namespace millrace {

bool KvPool::allocate_states(std::vector<int32_t>& kept) {
  kept.assign(classes(), kNoBlock);
  std::vector<int32_t> one;
  for (int c = 0; c < classes(); c++) {
    if (!of(c).state()) continue;
    one.clear();
    if (!of(c).has_beside_free() || !of(c).allocate(1, one)) {
      give_up_states(kept);
      return false;
    }
    kept[c] = one.front();
  }
  return true;
}

void KvPool::copy_states(const BlockLists& blocks, std::span<const int32_t> kept, int row) {
  for (int c = 0; c < classes(); c++) {
    if (kept[c] != kNoBlock) of(c).copy(blocks[c][row], kept[c]);
  }
}

void KvPool::choose_states(BlockLists& blocks, int row) {
  for (int c = 0; c < classes(); c++) {
    if (!of(c).state() || blocks[c].empty()) continue;
    std::swap(blocks[c].front(), blocks[c][row]);
    of(c).drop(blocks[c], 1, static_cast<int>(blocks[c].size()));
    blocks[c].resize(1);
  }
}

int KvPool::free_states() const {
  int count = INT_MAX;
  for (int c = 0; c < classes(); c++) {
    if (of(c).state()) count = std::min(count, of(c).kept_free());
  }
  return count;
}

void KvPool::keep_free_states(int count) {
  for (int c = 0; c < classes(); c++) {
    if (of(c).state()) of(c).keep_free(count);
  }
}

void KvPool::remember_states(const BlockLists& blocks, int index, std::vector<int32_t>& kept) {
  const int32_t behind = blocks[leader_][index];
  for (int c = 0; c < classes(); c++) {
    if (kept[c] == kNoBlock) continue;
    const int32_t text = text_of(leader_, behind);
    const bool found = text != kNoText && put(c, text, kept[c]);
    of(c).give_back(kept[c]);
    if (!found) kept[c] = kNoBlock;
  }
}

void KvPool::give_up_states(std::vector<int32_t>& kept) {
  for (int c = 0; c < classes() && !kept.empty(); c++) {
    if (kept[c] != kNoBlock) of(c).give_back(kept[c]);
  }
  kept.clear();
}

void KvPool::forget_states(std::span<const int32_t> kept, std::span<const uint64_t> generations) {
  for (size_t c = 0; c < kept.size(); c++) {
    KvBlocks& blocks = of(static_cast<int>(c));
    if (kept[c] != kNoBlock && blocks.generation(kept[c]) == generations[c]) {
      take_from(static_cast<int>(c), kept[c]);
    }
  }
}

}  // namespace millrace
