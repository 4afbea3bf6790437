#include "engine/kv_swap.h"

#include <algorithm>
#include <climits>
#include <span>

namespace millrace {

namespace {

// The system pins about 2.5 GiB a second: a part is some 25 ms, for which a model that is closed waits.
constexpr size_t kPart = size_t{64} << 20;
constexpr size_t kPage = 4096;

}  // namespace

KvSwap::KvSwap(size_t bytes, size_t slot_bytes, Pinner pinner)
    : slot_bytes_(slot_bytes),
      part_slots_(static_cast<int>(std::max<size_t>(1, kPart / slot_bytes))),
      part_bytes_(round_up(static_cast<size_t>(part_slots_) * slot_bytes, kPage)) {
  const int slots = static_cast<int>(std::min<size_t>(bytes / slot_bytes, INT_MAX));
  if (slots == 0) return;
  const int parts = (slots + part_slots_ - 1) / part_slots_;
  const auto bytes_from = [&](int part) {  // of that part: the last may be smaller
    return round_up(static_cast<size_t>(std::min(part_slots_, slots - part * part_slots_)) * slot_bytes, kPage);
  };
  try {
    memory_ = HostMemory((parts - 1) * part_bytes_ + bytes_from(parts - 1), "preempted sequences' KV");
    free_.reserve(slots);
    if (pinner) {
      std::vector<std::span<std::byte>> spans;
      for (int part = 0; part < parts; part++) {
        spans.emplace_back(memory_.data() + part * part_bytes_, bytes_from(part));
      }
      pinning_ = std::make_unique<Pinning>(std::move(pinner), std::move(spans));
    }
  } catch (const std::exception&) {
    return;  // no slots: the model serves without
  }
  total_ = slots;
}

bool KvSwap::take(int count, std::vector<int32_t>& slots) {
  const int again = std::min<int>(count, static_cast<int>(free_.size()));
  const int fresh = count - again;
  // Parts are pinned in order: where the last is, all are.
  if (fresh > total_ - fresh_ || (fresh > 0 && !ready(fresh_ + fresh - 1))) return false;
  slots.reserve(slots.size() + count);
  for (int i = 0; i < again; i++) {
    slots.push_back(free_.back());
    free_.pop_back();
  }
  for (int i = 0; i < fresh; i++) slots.push_back(fresh_++);
  used_ += count;
  return true;
}

void KvSwap::give_back(std::vector<int32_t>& slots) {
  used_ -= static_cast<int>(slots.size());
  free_.insert(free_.end(), slots.rbegin(), slots.rend());
  slots.clear();
}

std::byte* KvSwap::data(int32_t slot) const {
  return memory_.data() + slot / part_slots_ * part_bytes_ + slot % part_slots_ * slot_bytes_;
}

void KvSwap::wait_until_pinned() {
  if (pinning_) pinning_->wait();
}

}  // namespace millrace
