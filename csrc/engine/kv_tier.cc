// Texts in system RAM: what is remembered of blocks that are given to somebody new. Each class has the slots that its
// preempted sequences leave; when there are none left, the text that has rested longest is forgotten for the next.
// Slots are given away at once: whoever has one next copies on the same streams, behind what is under way.
#include <algorithm>

#include "engine/kv_pool.h"

namespace millrace {

void KvPool::let_rest(int kv_class, int32_t text) {
  KvTexts::Place& place = texts_.place(text, kv_class);
  place.held = false;
  place.rests = true;
  place.resting = resting_[kv_class].insert(resting_[kv_class].end(), text);
}

void KvPool::give_back_slot(int kv_class, int32_t slot) {
  std::vector<int32_t> one = {slot};
  of(kv_class).swap().give_back(one);
  tier_slots_[kv_class]--;
}

void KvPool::let_go(int kv_class, KvTexts::Place& place) {
  if (place.rests) resting_[kv_class].erase(place.resting);
  if (!place.held) give_back_slot(kv_class, place.slot);
  place.slot = -1;
  place.held = place.rests = false;
}

void KvPool::give_up_oldest(int kv_class) {
  const int32_t text = resting_[kv_class].front();
  if (kv_class == leader_) return remove(text);
  let_go(kv_class, texts_.place(text, kv_class));
}

bool KvPool::take_slots(int kv_class, int count, std::vector<int32_t>& slots) {
  KvSwap& swap = of(kv_class).swap();
  if (count > swap.room() + static_cast<int>(resting_[kv_class].size())) return false;
  while (!swap.take(count, slots)) {
    if (resting_[kv_class].empty()) return false;
    give_up_oldest(kv_class);
  }
  return true;
}

void KvPool::reclaim(int kv_class, std::span<const int32_t> ids) {
  KvBlocks& own = of(kv_class);
  std::vector<int32_t> blocks, slots, slot;
  for (const int32_t id : ids) {
    slot.clear();
    const bool room = text_of(kv_class, id) != kNoText && take_slots(kv_class, 1, slot);
    const int32_t text = text_of(kv_class, id);  // the one that made room may have taken it along
    if (text != kNoText && room) {
      texts_.place(text, kv_class).slot = slot.front();
      tier_slots_[kv_class]++;
      blocks.push_back(id);
      slots.push_back(slot.front());
    } else if (room) {
      own.swap().give_back(slot);
    } else if (text != kNoText && kv_class == leader_) {
      remove(text);
    } else if (text != kNoText) {
      take_from(kv_class, id);
    }
  }
  size_t left = 0;
  for (size_t i = 0; i < blocks.size(); i++) {
    const int32_t text = text_of(kv_class, blocks[i]);
    if (text == kNoText) continue;  // forgotten with one that it continues
    blocks[left] = blocks[i];
    slots[left++] = slots[i];
  }
  blocks.resize(left);
  slots.resize(left);
  if (blocks.empty()) return;
  bool copied = true;
  try {
    // Texts are remembered when their passes were read; copies of states follow those passes.
    own.save(blocks, slots, !own.state());
  } catch (const std::exception&) {
    copied = false;  // a device that copies nothing: the pass will say so
  }
  for (const int32_t id : blocks) {
    const int32_t text = text_of(kv_class, id);
    if (text == kNoText) continue;
    if (copied) {
      take_from(kv_class, id);
      let_rest(kv_class, text);
    } else if (kv_class == leader_) {
      remove(text);
    } else {
      let_go(kv_class, texts_.place(text, kv_class));
      take_from(kv_class, id);
    }
  }
}

void KvPool::hold(Prefix& prefix, int kv_class, int32_t text, int index) {
  KvTexts::Place& place = texts_.place(text, kv_class);
  resting_[kv_class].erase(place.resting);
  place.rests = false;
  place.held = true;
  prefix.held[kv_class].push_back({text, texts_.serial(text), place.slot, index});
}

void KvPool::free_held(int kv_class, const Prefix::Held& held, bool rests) {
  if (texts_.is(held.text, held.serial)) {
    KvTexts::Place& place = texts_.place(held.text, kv_class);
    if (rests && place.held) return let_rest(kv_class, held.text);
    if (place.held) let_go(kv_class, place);
  }
  give_back_slot(kv_class, held.slot);
}

void KvPool::give_up(Prefix& prefix) {
  for (int c = 0; c < classes(); c++) {
    if (prefix.states[c] >= 0) of(c).give_back(prefix.states[c]);
    for (const Prefix::Held& held : prefix.held[c]) free_held(c, held, true);
    prefix.held[c].clear();
  }
  prefix.states.assign(classes(), kNoBlock);
}

// Some at a time: what gives way to them has the slots of those before.
bool KvPool::bring_back(Prefix& prefix, int kv_class, std::vector<int32_t>& blocks) {
  std::vector<Prefix::Held>& held = prefix.held[kv_class];
  std::erase_if(held, [&](const Prefix::Held& one) {
    const bool dropped = blocks[one.index] != kInRam;  // it is behind the window by now
    if (dropped) free_held(kv_class, one, true);
    return dropped;
  });
  std::vector<int32_t> ids, slots;
  while (!held.empty()) {
    const size_t count = std::min(held.size(), kMovedTogether);
    const auto part = std::span(held).last(count);
    ids.clear();
    slots.clear();
    for (const Prefix::Held& one : part) slots.push_back(one.slot);
    if (!of(kv_class).allocate(static_cast<int>(count), ids)) return false;
    for (size_t i = 0; i < count; i++) blocks[part[i].index] = ids[i];
    of(kv_class).restore(slots, ids);
    for (size_t i = 0; i < count; i++) {
      const bool there = texts_.is(part[i].text, part[i].serial);
      free_held(kv_class, part[i], false);
      if (there) put(kv_class, part[i].text, ids[i]);
    }
    held.resize(held.size() - count);
  }
  return true;
}

bool KvPool::begin_with(Prefix& prefix, BlockLists& blocks) {
  for (int c = 0; c < classes(); c++) {
    if (!of(c).state() && !bring_back(prefix, c, blocks[c])) return false;
  }
  for (int c = 0; c < classes(); c++) {
    const int32_t kept = prefix.states[c];
    if (kept == kNoBlock) continue;
    const bool own = of(c).allocate(1, blocks[c]);
    if (kept == kInRam) {
      if (!own) return false;
      of(c).restore(std::span(&prefix.held[c].front().slot, 1), blocks[c]);  // and stays there
    } else if (own) {
      of(c).copy(kept, blocks[c].front());
    } else {
      of(c).take(kept);
      take_from(c, kept);
      blocks[c].push_back(kept);
    }
  }
  give_up(prefix);
  return true;
}

size_t KvPool::tier_bytes() const {
  size_t bytes = 0;
  for (int c = 0; c < classes(); c++) bytes += tier_slots_[c] * of(c).block_bytes();
  return bytes;
}

}  // namespace millrace
