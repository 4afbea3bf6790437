#pragma once
// The ring's bookkeeping: contiguous slots, taken and given back in the same order, in a circle of bytes. Knows no
// memory, no streams and no events.
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>

namespace millrace {

class Ring {
 public:
  explicit Ring(size_t bytes) : bytes_(bytes) {}

  struct Slot {
    uint64_t sequence = 0;  // 0, 1, 2, ... in the order of reservation
    size_t offset = 0;
    size_t bytes = 0;
    // The newest released slot whose bytes this one takes over: its reader must be done before this slot is written.
    // Older ones need no wait of their own, since slots are freed by one stream in order.
    std::optional<uint64_t> after;
  };

  // The next slot, or nothing while slots not yet released are in the way.
  std::optional<Slot> reserve(size_t bytes);
  // Gives back the oldest reserved slot; returns it.
  Slot release();
  // Takes back the newest reservation, whose bytes nobody will read. What comes in its place is written by the same
  // stream, so later than what was on its way there.
  void cancel();

  size_t bytes() const { return bytes_; }
  size_t reserved_bytes() const;
  bool empty() const { return live_.empty(); }

 private:
  bool overlaps_live(size_t offset, size_t bytes) const;

  size_t bytes_;
  size_t head_ = 0;  // where the next slot begins, if it fits before the end
  uint64_t next_ = 0;
  std::deque<Slot> live_;
  std::deque<Slot> stale_;  // released, not yet waited for
};

}  // namespace millrace
