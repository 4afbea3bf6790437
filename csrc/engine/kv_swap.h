#pragma once
// System RAM for the keys and values that leave the cache, of preempted sequences and of texts: slots of one KV block
// each, of all layers. The memory is reserved when the model is loaded, and for a device pinned from then on, part by
// part on a thread of its own: a slot serves once its part is pinned, so that no step waits for the system. There is
// never more of it; what finds no slot is computed again.
#include <cstdint>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "core/memory.h"
#include "stream/pinning.h"

namespace millrace {

class KvSwap {
 public:
  // As many slots of `slot_bytes` as `bytes` hold, none where the system has not even addresses for them. Without a
  // pinner all serve at once.
  KvSwap(size_t bytes, size_t slot_bytes, Pinner pinner);

  // Appends `count` slots, or none and returns false.
  bool take(int count, std::vector<int32_t>& slots);
  // That take() may yet give out, some of it once it is pinned.
  int room() const { return total_ - used_; }
  // Leaves `slots` empty.
  void give_back(std::vector<int32_t>& slots);
  std::byte* data(int32_t slot) const;

  // Reserved, and of that in use.
  size_t bytes() const { return static_cast<size_t>(total_) * slot_bytes_; }
  size_t used_bytes() const { return static_cast<size_t>(used_) * slot_bytes_; }
  // Until all is pinned that will be.
  void wait_until_pinned();

 private:
  bool ready(int32_t slot) const { return pinning_ == nullptr || pinning_->pinned(slot / part_slots_); }

  const size_t slot_bytes_;
  const int part_slots_;     // of one pinning
  const size_t part_bytes_;  // whole pages
  int total_ = 0;
  int fresh_ = 0;  // slots from here on were never taken
  int used_ = 0;
  std::vector<int32_t> free_;  // of those before, taken from the back: warm
  HostMemory memory_;
  std::unique_ptr<Pinning> pinning_;  // last: lets go before the memory goes
};

}  // namespace millrace
