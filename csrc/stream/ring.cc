#include "stream/ring.h"

namespace millrace {

namespace {

bool overlap(size_t a, size_t a_bytes, size_t b, size_t b_bytes) {
  return a < b + b_bytes && b < a + a_bytes;
}

}  // namespace

bool Ring::overlaps_live(size_t offset, size_t bytes) const {
  for (const Slot& slot : live_) {
    if (overlap(offset, bytes, slot.offset, slot.bytes)) return true;
  }
  return false;
}

std::optional<Ring::Slot> Ring::reserve(size_t bytes) {
  if (bytes > bytes_) return std::nullopt;
  size_t offset = head_;
  if (offset + bytes > bytes_) {
    // What is left at the end is skipped; but never past a live slot, or the order of the circle would be lost.
    if (overlaps_live(head_, bytes_ - head_)) return std::nullopt;
    offset = 0;
  }
  if (overlaps_live(offset, bytes)) return std::nullopt;
  Slot slot{next_++, offset, bytes, std::nullopt};
  for (const Slot& old : stale_) {
    if (overlap(offset, bytes, old.offset, old.bytes)) slot.after = old.sequence;
  }
  // The copy stream waits in order too: what a slot has waited for holds for all later ones.
  if (slot.after) {
    while (!stale_.empty() && stale_.front().sequence <= *slot.after) stale_.pop_front();
  }
  head_ = offset + bytes;
  live_.push_back(slot);
  return slot;
}

Ring::Slot Ring::release() {
  Slot slot = live_.front();
  live_.pop_front();
  stale_.push_back(slot);
  return slot;
}

void Ring::cancel() {
  head_ = live_.back().offset;
  next_ = live_.back().sequence;
  live_.pop_back();
}

size_t Ring::reserved_bytes() const {
  size_t total = 0;
  for (const Slot& slot : live_) total += slot.bytes;
  return total;
}

}  // namespace millrace
