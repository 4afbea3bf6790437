#include "engine/kv_pool.h"

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace millrace {

KvPool::KvPool(std::span<const Device> devices, std::span<const KvClass> classes, std::span<const int> blocks,
               size_t swap_bytes, KvHooks hooks)
    : texts_(static_cast<int>(classes.size())), resting_(classes.size()), tier_slots_(classes.size()) {
  for (const Device& device : devices) copies_.push_back({device.backend, nullptr});
  // The class that keeps most leads; states are of no position.
  const auto keeps_more = [](const KvClass& a, const KvClass& b) {
    if (a.state > 0 || b.state > 0) return a.state == 0 && b.state > 0;
    return b.window != 0 && (a.window == 0 || a.window > b.window);
  };
  double all_bytes = 0;
  const auto bytes_of = [&](size_t c) {
    return static_cast<double>(kv_block_bytes(classes[c])) * classes[c].layers * blocks[c];
  };
  for (size_t c = 0; c < classes.size(); c++) {
    all_bytes += bytes_of(c);
    if (keeps_more(classes[c], classes[leader_])) leader_ = static_cast<int>(c);
  }
  for (size_t c = 0; c < classes.size(); c++) {
    std::vector<KvBlocks::Device> own;
    for (size_t d = 0; d < devices.size(); d++) {
      const auto copies = [&own = copies_[d]]() -> Stream& {
        if (!own.stream) own.stream = own.backend->create_stream();
        return *own.stream;
      };
      own.push_back({devices[d].backend, devices[d].compute, copies, devices[d].layers[c]});
    }
    const size_t share =
        classes.size() == 1
            ? swap_bytes
            : static_cast<size_t>(static_cast<double>(swap_bytes) * bytes_of(c) / std::max(all_bytes, 1.0));
    classes_.push_back(std::make_unique<KvBlocks>(classes[c], std::move(own), blocks[c], share, hooks));
    texts_of_.emplace_back(blocks[c], kNoText);
    const int own_class = static_cast<int>(c);
    of(own_class).on_reclaim([=, this](std::span<const int32_t> ids) { reclaim(own_class, ids); });
  }
}

int KvPool::least_blocks(const KvClass& kind, int context, int max_rows) {
  if (kind.state > 0) return 1;
  if (kind.window == 0) return blocks_for(context);
  const int64_t kept = int64_t{kind.window} + max_rows + 2 * kKvBlockTokens;
  return blocks_for(static_cast<int>(std::min<int64_t>(context, kept)));
}

int KvPool::first_seen(int window, int index) {
  return window == 0 ? 0 : std::max(0, index * kKvBlockTokens + 1 - window) / kKvBlockTokens;
}

void KvPool::forget(int32_t text) {
  for (int c = 0; c < classes(); c++) {
    KvTexts::Place& place = texts_.place(text, c);
    if (place.block >= 0) take_from(c, place.block);
    if (place.slot >= 0) let_go(c, place);
  }
}

void KvPool::take_from(int kv_class, int32_t block) {
  const int32_t text = std::exchange(texts_of_[kv_class][block], kNoText);
  if (text == kNoText) return;
  texts_.place(text, kv_class).block = -1;
  of(kv_class).forget(block);
}

bool KvPool::put(int kv_class, int32_t text, int32_t block) {
  KvTexts::Place& place = texts_.place(text, kv_class);
  if (place.block >= 0 || text_of(kv_class, block) != kNoText) return false;
  if (place.slot >= 0) let_go(kv_class, place);
  place.block = block;
  texts_of_[kv_class][block] = text;
  of(kv_class).set_remembered(block);
  return true;
}

void KvPool::release(BlockLists& blocks) {
  for (size_t c = 0; c < blocks.size(); c++) {
    of(static_cast<int>(c)).drop(blocks[c], 0, static_cast<int>(blocks[c].size()));
    blocks[c].clear();
  }
}

KvPool::Prefix KvPool::no_prefix() const {
  Prefix prefix;
  prefix.states.assign(classes(), kNoBlock);
  prefix.held.resize(classes());
  return prefix;
}

KvPool::Prefix KvPool::reuse(std::span<const int32_t> tokens, bool prefill_only, BlockLists& blocks) {
  const int most = (static_cast<int>(tokens.size()) - 1) / kKvBlockTokens;
  std::vector<int32_t> chain;
  for (int32_t parent = kNoText; static_cast<int>(chain.size()) < most;) {
    const int32_t text = texts_.find(parent, tokens.data() + chain.size() * kKvBlockTokens);
    if (text == kNoText || (prefill_only && texts_.decoded(text))) break;
    chain.push_back(text);
    parent = text;
  }
  // As far as the other classes still have what the next row sees.
  const auto whole = [&](int count) {
    for (int c = 0; c < classes(); c++) {
      if (c == leader_) continue;
      const int first = of(c).state() ? count - 1 : first_seen(of(c).window(), count);
      for (int i = count - 1; i >= first; i--) {
        const KvTexts::Place& place = texts_.place(chain[i], c);
        if (place.block < 0 && place.slot < 0) return false;
      }
    }
    return true;
  };
  Prefix prefix = no_prefix();
  prefix.known = static_cast<int>(chain.size());
  int count = prefix.known;
  while (count > 0 && !whole(count)) count--;
  const auto take = [&](int c, int i) {
    const int32_t id = texts_.place(chain[i], c).block;
    if (id < 0) {
      hold(prefix, c, chain[i], i);
      return kInRam;
    }
    of(c).take(id);
    return id;
  };
  for (int c = 0; c < classes(); c++) {
    if (of(c).state()) {
      if (count > 0) prefix.states[c] = take(c, count - 1);
      continue;
    }
    const int first = c == leader_ ? 0 : first_seen(of(c).window(), count);
    for (int i = 0; i < count; i++) blocks[c].push_back(i < first ? kNoBlock : take(c, i));
  }
  prefix.blocks = count;
  prefix.returning = static_cast<int>(prefix.held[leader_].size());
  return prefix;
}

void KvPool::remember(std::span<const int32_t> tokens, BlockLists& lists, int index, bool decoded) {
  std::vector<int32_t>& blocks = lists[leader_];
  const int32_t parent = index == 0 ? kNoText : text_of(leader_, blocks[index - 1]);
  const int32_t* own = tokens.data() + static_cast<size_t>(index) * kKvBlockTokens;
  // Only what continues something remembered can be found again.
  if (text_of(leader_, blocks[index]) != kNoText || (index > 0 && parent == kNoText)) return;
  decoded = decoded || (parent != kNoText && texts_.decoded(parent));
  // Of two that hold the same text one is remembered: the first, unless it was decoded and this one was not.
  int32_t text = texts_.find(parent, own);
  if (text != kNoText && (decoded || texts_.decoded(text))) {
    if (decoded) return;
    remove(text);
    text = kNoText;
  }
  if (text == kNoText) text = texts_.add(parent, own, decoded);
  if (!put(leader_, text, blocks[index])) {  // the same bits: what follows continues the one that is found
    const int32_t known = texts_.place(text, leader_).block;
    leader().take(known);
    leader().settle(std::span(&known, 1));  // it may have come from system RAM just now
    leader().give_back(blocks[index]);
    blocks[index] = known;
  }
  for (int c = 0; c < classes(); c++) {
    if (c == leader_ || of(c).state()) continue;
    if (const int32_t id = lists[c][index]; id != kNoBlock) put(c, text, id);
  }
}

bool KvPool::save(BlockLists& blocks, SavedKv& saved) {
  SavedKv taken;
  const auto give_back = [&] {
    for (size_t c = 0; c < taken.classes.size(); c++) {
      of(static_cast<int>(c)).swap().give_back(taken.classes[c].slots);
    }
  };
  for (int c = 0; c < classes(); c++) {
    SavedKv::OfClass& one = taken.classes.emplace_back();
    one.dropped = static_cast<int>(std::count(blocks[c].begin(), blocks[c].end(), kNoBlock));
    if (!take_slots(c, static_cast<int>(blocks[c].size()) - one.dropped, one.slots)) {
      give_back();
      return false;
    }
  }
  try {
    for (int c = 0; c < classes(); c++) {
      const auto kept = std::span(blocks[c]).subspan(taken.classes[c].dropped);  // the dropped ones come first
      of(c).save(kept, taken.classes[c].slots, false);
    }
  } catch (...) {
    give_back();
    throw;
  }
  saved = std::move(taken);
  release(blocks);
  return true;
}

void KvPool::restore(SavedKv& saved, BlockLists& blocks) {
  if (saved.empty()) return;
  for (int c = 0; c < classes(); c++) {
    const SavedKv::OfClass& one = saved.classes[c];
    blocks[c].assign(static_cast<size_t>(one.dropped), kNoBlock);
    of(c).allocate(static_cast<int>(one.slots.size()), blocks[c]);
    of(c).restore(one.slots, std::span(blocks[c]).subspan(one.dropped));
  }
  discard(saved);
}

// Copies to or from the slots may be under way still: whoever has one next copies on the same streams, after them.
void KvPool::discard(SavedKv& saved) {
  for (size_t c = 0; c < saved.classes.size(); c++) {
    of(static_cast<int>(c)).swap().give_back(saved.classes[c].slots);
  }
  saved = {};
}

bool KvPool::at_rest(const BlockLists& blocks) const {
  for (int c = 0; c < classes(); c++) {
    if (!of(c).at_rest(blocks[c])) return false;
  }
  return true;
}

bool KvPool::settled(const BlockLists& blocks) const {
  for (int c = 0; c < classes(); c++) {
    if (!of(c).settled(blocks[c])) return false;
  }
  return true;
}

void KvPool::settle(const BlockLists& blocks) {
  for (int c = 0; c < classes(); c++) of(c).settle(blocks[c]);
}

bool KvPool::rest() {
  bool whole = true;
  for (const Copies& copies : copies_) {
    if (!copies.stream) continue;
    try {
      copies.stream->synchronize();
    } catch (const Error&) {
      whole = false;
    }
  }
  for (const auto& one : classes_) one->all_at_rest();
  if (!whole) texts_.remove_all([this](int32_t text) { forget(text); });
  return whole;
}

size_t KvPool::bytes(int device) const {
  size_t bytes = 0;
  for (const auto& one : classes_) bytes += one->bytes(device);
  return bytes;
}

size_t KvPool::swap_bytes() const {
  size_t bytes = 0;
  for (const auto& one : classes_) bytes += one->swap().bytes();
  return bytes;
}

size_t KvPool::saved_bytes() const {
  size_t bytes = 0;
  for (const auto& one : classes_) bytes += one->swap().used_bytes();
  return bytes - tier_bytes();
}

}  // namespace millrace
