#include "engine/kv_pool.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"

namespace millrace {

KvPool::KvPool(std::span<const Device> devices, std::span<const KvClass> classes, std::span<const int> blocks,
               size_t swap_bytes, KvHooks hooks) {
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
    beside_.emplace_back(blocks[c]);
    followers_.emplace_back(blocks[leader_], -1);
  }
  texts_.resize(blocks[leader_]);
  leader().on_reclaim([this](int32_t id) { forget(id); });
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

void KvPool::forget(int32_t id) {
  const auto [begin, end] = by_key_.equal_range(texts_[id].key);
  for (auto it = begin; it != end; ++it) {
    if (it->second == id) {
      by_key_.erase(it);
      break;
    }
  }
  for (int c = 0; c < classes(); c++) {
    if (const int32_t follower = c == leader_ ? -1 : beside(c, id); follower >= 0) of(c).forget(follower);
  }
  leader().forget(id);
}

int32_t KvPool::beside(int kv_class, int32_t leader_block) const {
  const int32_t id = followers_[kv_class][leader_block];
  if (id < 0 || !of(kv_class).remembered(id)) return -1;
  const Beside& own = beside_[kv_class][id];
  return own.leader == leader_block && own.generation == leader().generation(leader_block) ? id : -1;
}

void KvPool::release(BlockLists& blocks) {
  for (size_t c = 0; c < blocks.size(); c++) {
    of(static_cast<int>(c)).drop(blocks[c], 0, static_cast<int>(blocks[c].size()));
    blocks[c].clear();
  }
}

uint64_t KvPool::key_of(int32_t parent, const int32_t* tokens) const {
  uint64_t hash = parent < 0
                      ? 0x9e3779b97f4a7c15ull
                      : (static_cast<uint64_t>(parent) << 32) ^ leader().generation(parent) * 0xd6e8feb86659fd93ull;
  for (int i = 0; i < kKvBlockTokens; i++) {
    hash = (hash ^ static_cast<uint32_t>(tokens[i])) * 0xff51afd7ed558ccdull;
    hash ^= hash >> 32;
  }
  return hash;
}

int32_t KvPool::find(int32_t parent, const int32_t* tokens) const {
  const auto [begin, end] = by_key_.equal_range(key_of(parent, tokens));
  for (auto it = begin; it != end; ++it) {
    const Text& text = texts_[it->second];
    const bool same_parent =
        text.parent == parent && (parent < 0 || text.parent_generation == leader().generation(parent));
    if (same_parent && std::memcmp(text.tokens, tokens, sizeof(text.tokens)) == 0) return it->second;
  }
  return -1;
}

KvPool::Prefix KvPool::reuse(std::span<const int32_t> tokens, bool prefill_only, BlockLists& blocks) {
  const int most = (static_cast<int>(tokens.size()) - 1) / kKvBlockTokens;
  std::vector<int32_t> chain;
  for (int32_t parent = -1; static_cast<int>(chain.size()) < most;) {
    const int32_t id = find(parent, tokens.data() + chain.size() * kKvBlockTokens);
    if (id < 0 || (prefill_only && texts_[id].decoded)) break;
    chain.push_back(id);
    parent = id;
  }
  // As far as the other classes still have what the next row sees.
  const auto whole = [&](int count) {
    for (int c = 0; c < classes(); c++) {
      if (c == leader_) continue;
      const int first = of(c).state() ? count - 1 : first_seen(of(c).window(), count);
      for (int i = count - 1; i >= first; i--) {
        if (beside(c, chain[i]) < 0) return false;
      }
    }
    return true;
  };
  Prefix prefix;
  prefix.known = static_cast<int>(chain.size());
  prefix.states.assign(classes(), kNoBlock);
  int count = prefix.known;
  while (count > 0 && !whole(count)) count--;
  for (int c = 0; c < classes(); c++) {
    if (of(c).state()) {
      if (count == 0) continue;
      prefix.states[c] = beside(c, chain[count - 1]);
      of(c).take(prefix.states[c]);
      continue;
    }
    const int first = c == leader_ ? 0 : first_seen(of(c).window(), count);
    for (int i = 0; i < count; i++) {
      const int32_t id = i < first ? kNoBlock : c == leader_ ? chain[i] : beside(c, chain[i]);
      if (id != kNoBlock) of(c).take(id);
      blocks[c].push_back(id);
    }
  }
  prefix.blocks = count;
  return prefix;
}

void KvPool::remember(std::span<const int32_t> tokens, BlockLists& lists, int index, bool decoded) {
  std::vector<int32_t>& blocks = lists[leader_];
  const int32_t parent = index == 0 ? -1 : blocks[index - 1];
  const int32_t* own = tokens.data() + static_cast<size_t>(index) * kKvBlockTokens;
  // Only what continues something remembered can be found again.
  if (leader().remembered(blocks[index]) || (parent >= 0 && !leader().remembered(parent))) return;
  Text& text = texts_[blocks[index]];
  text.decoded = decoded || (parent >= 0 && texts_[parent].decoded);
  const bool own_decoded = text.decoded;
  // Of two that hold the same text one is remembered: the first, unless it was decoded and this one was not.
  if (const int32_t known = find(parent, own); known >= 0) {
    if (!own_decoded && !texts_[known].decoded) {  // the same bits: what follows continues the one that is found
      leader().take(known);
      leader().give_back(blocks[index]);
      blocks[index] = known;
    } else if (own_decoded || !texts_[known].decoded) {
      return;
    } else {
      forget(known);
    }
  }
  if (!leader().remembered(blocks[index])) {
    leader().set_remembered(blocks[index]);
    text.parent = parent;
    text.parent_generation = parent < 0 ? 0 : leader().generation(parent);
    std::memcpy(text.tokens, own, sizeof(text.tokens));
    text.key = key_of(parent, own);
    by_key_.emplace(text.key, blocks[index]);
  }
  const int32_t found = blocks[index];
  for (int c = 0; c < classes(); c++) {
    if (c == leader_ || of(c).state()) continue;
    if (const int32_t id = lists[c][index]; id != kNoBlock) set_beside(c, found, id);
  }
}

bool KvPool::set_beside(int kv_class, int32_t leader_block, int32_t id) {
  if (beside(kv_class, leader_block) >= 0 || of(kv_class).remembered(id)) return false;
  of(kv_class).set_remembered(id);
  beside_[kv_class][id] = {leader_block, leader().generation(leader_block)};
  followers_[kv_class][leader_block] = id;
  return true;
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
    if (!of(c).swap().take(static_cast<int>(blocks[c].size()) - one.dropped, one.slots)) {
      give_back();
      return false;
    }
  }
  try {
    for (int c = 0; c < classes(); c++) {
      const auto kept = std::span(blocks[c]).subspan(taken.classes[c].dropped);  // the dropped ones come first
      of(c).save(kept, taken.classes[c].slots);
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

size_t KvPool::swap_used_bytes() const {
  size_t bytes = 0;
  for (const auto& one : classes_) bytes += one->swap().used_bytes();
  return bytes;
}

}  // namespace millrace
