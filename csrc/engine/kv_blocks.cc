#include "engine/kv_blocks.h"

#include <algorithm>
#include <utility>

namespace millrace {

KvBlocks::KvBlocks(const KvClass& kind, std::vector<Device> devices, int blocks, size_t swap_bytes, KvHooks hooks)
    : kind_(kind),
      devices_(std::move(devices)),
      places_(kind.layers),
      block_bytes_(kv_block_bytes(kind)),
      blocks_(blocks),
      moves_(blocks),
      hooks_(hooks),
      swap_(swap_bytes, places_.size() * block_bytes_,
            devices_[0].backend->reads_host_memory() ? Pinner{} : devices_[0].backend->pinner()) {
  for (size_t device = 0; device < devices_.size(); device++) {
    const std::vector<int>& layers = devices_[device].layers;
    for (size_t i = 0; i < layers.size(); i++) places_[layers[i]] = {static_cast<int>(device), static_cast<int>(i)};
    const size_t bytes = static_cast<size_t>(blocks) * layers.size() * block_bytes_;
    memory_.push_back(devices_[device].backend->allocate(bytes, "the KV cache"));
  }
  for (const Device& device : devices_) handed_.push_back(device.backend->create_event());
  for (int32_t id = blocks - 1; id >= 0; id--) free_.push_back(id);
}

void KvBlocks::take(int32_t id) {
  if (blocks_[id].users++ > 0) return;
  used_++;
  if (blocks_[id].remembered) idle_.erase(blocks_[id].idle);
}

void KvBlocks::give_back(int32_t id) {
  Block& block = blocks_[id];
  if (--block.users > 0) return;
  used_--;
  if (block.remembered) {
    block.idle = idle_.insert(idle_.end(), id);
  } else if (moves_[id]) {
    free_.push_front(id);
  } else {
    free_.push_back(id);
  }
}

void KvBlocks::forget(int32_t id) {
  Block& block = blocks_[id];
  if (!block.remembered) return;
  block.remembered = false;
  if (block.users > 0) return;
  idle_.erase(block.idle);
  free_.push_back(id);
}

bool KvBlocks::allocate(int count, std::vector<int32_t>& out) {
  if (count > available()) return false;
  const int wanted = count + kept_free_;
  while (free() < wanted && !idle_.empty()) {
    const auto missing = std::min<ptrdiff_t>(wanted - free(), std::ssize(idle_));
    const std::vector<int32_t> oldest(idle_.begin(), std::next(idle_.begin(), missing));
    if (reclaim_) reclaim_(oldest);
    for (const int32_t id : oldest) forget(id);
  }
  for (int i = 0; i < count; i++) take_free(out);
  return true;
}

bool KvBlocks::allocate_free(int count, std::vector<int32_t>& out) {
  if (count > free()) return false;
  for (int i = 0; i < count; i++) take_free(out);
  return true;
}

void KvBlocks::take_free(std::vector<int32_t>& out) {
  const int32_t id = free_.back();
  free_.pop_back();
  blocks_[id].generation++;
  settle(id);
  take(id);
  out.push_back(id);
}

void KvBlocks::drop(std::vector<int32_t>& list, int begin, int end) {
  for (int i = end - 1; i >= begin; i--) {
    if (list[i] >= 0) give_back(list[i]);
    list[i] = kNoBlock;
  }
}

void KvBlocks::move(bool out, std::span<const int32_t> blocks, std::span<const int32_t> slots, bool complete) {
  const bool skipped = complete || handed_waits_++ == hooks_.skip_handed_wait;
  for (size_t d = 0; d < devices_.size() && !skipped; d++) {
    devices_[d].compute->record(*handed_[d]);
    devices_[d].copies().wait(*handed_[d]);
  }
  // Blocks that were given back last are given out first: so are these copied.
  std::vector<std::vector<CopyPiece>> pieces(devices_.size());
  for (size_t end = blocks.size(); end > 0;) {
    const size_t begin = end > kMovedTogether ? end - kMovedTogether : 0;
    const auto moved = std::make_shared<Move>();
    moved->out = out;
    for (auto& of_device : pieces) of_device.clear();
    for (size_t i = begin; i < end; i++) {
      std::byte* saved = swap_.data(slots[i]);
      for (const Place& place : places_) {
        const size_t index = static_cast<size_t>(place.index) * blocks_.size() + blocks[i];
        std::byte* own = memory_[place.device]->data() + index * block_bytes_;
        pieces[place.device].push_back(out ? CopyPiece{saved, own} : CopyPiece{own, saved});
        saved += block_bytes_;
      }
    }
    for (size_t d = 0; d < devices_.size(); d++) {
      Stream& copies = devices_[d].copies();
      copies.copy_pieces(pieces[d], block_bytes_);
      moved->done.push_back(devices_[d].backend->create_event());
      copies.record(*moved->done.back());
    }
    for (size_t i = begin; i < end; i++) moves_[blocks[i]] = moved;
    end = begin;
  }
}

void KvBlocks::copy(int32_t from, int32_t to) {
  std::vector<std::vector<CopyPiece>> pieces(devices_.size());
  for (const Place& place : places_) {
    std::byte* first = memory_[place.device]->data() + static_cast<size_t>(place.index) * blocks_.size() * block_bytes_;
    pieces[place.device].push_back({first + to * block_bytes_, first + from * block_bytes_});
  }
  for (size_t d = 0; d < devices_.size(); d++) devices_[d].compute->copy_pieces(pieces[d], block_bytes_);
}

bool KvBlocks::at_rest(std::span<const int32_t> blocks) const {
  return std::all_of(blocks.begin(), blocks.end(), [&](int32_t id) {
    if (id < 0 || moves_[id] == nullptr) return true;
    const auto& done = moves_[id]->done;
    return std::all_of(done.begin(), done.end(), [](const auto& event) { return event->done(); });
  });
}

bool KvBlocks::settled(std::span<const int32_t> blocks) const {
  return std::all_of(blocks.begin(), blocks.end(), [&](int32_t id) { return id < 0 || moves_[id] == nullptr; });
}

void KvBlocks::settle(std::span<const int32_t> blocks) {
  for (const int32_t id : blocks) {
    if (id >= 0) settle(id);
  }
}

void KvBlocks::settle(int32_t block) {
  const std::shared_ptr<Move> move = std::exchange(moves_[block], nullptr);
  if (move == nullptr || move->awaited) return;
  move->awaited = true;
  const bool skipped =
      move->out ? reuse_waits_++ == hooks_.skip_reuse_wait : arrival_waits_++ == hooks_.skip_arrival_wait;
  for (size_t d = 0; d < devices_.size() && !skipped; d++) devices_[d].compute->wait(*move->done[d]);
}

KvMemory KvBlocks::memory(int device) const {
  KvMemory memory;
  memory.data = memory_[device]->data();
  memory.blocks = total();
  for (const Place& place : places_) memory.places.push_back(place.device == device ? place.index : -1);
  return memory;
}

}  // namespace millrace
