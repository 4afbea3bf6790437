#include "stream/feeder.h"

#include <algorithm>

#include "core/error.h"

namespace millrace {

Feeder::Feeder(Backend& backend, const SlabSource& source, FeederConfig config)
    : backend_(backend),
      source_(source),
      config_(std::move(config)),
      resident_address_(config_.homes.size(), nullptr),
      ring_(config_.ring_bytes) {
  size_t largest = 0;
  size_t smallest = SIZE_MAX;
  for (size_t unit = 0; unit < config_.homes.size(); unit++) {
    if (config_.homes[unit] == Home::streamed) {
      streamed_.push_back(static_cast<int>(unit));
      largest = std::max(largest, config_.unit_bytes[unit]);
      smallest = std::min(smallest, config_.unit_bytes[unit]);
    }
  }
  copy_ = backend_.create_stream();
  for (size_t unit = 0; unit < config_.homes.size(); unit++) {
    if (config_.homes[unit] == Home::streamed) continue;
    const std::byte* slab = source_.slab(static_cast<int>(unit));
    if (!backend_.reads_host_memory()) {
      resident_.push_back(backend_.allocate(config_.unit_bytes[unit], "a resident unit"));
      copy_->copy(resident_.back()->data(), slab, config_.unit_bytes[unit]);
      slab = resident_.back()->data();
    }
    resident_address_[unit] = slab;
  }
  copy_->synchronize();
  if (streamed_.empty()) return;
  if (config_.ring_bytes < largest) {
    throw Error(code::kInvalidArgument,
                format("the ring has %zu bytes, the largest streamed unit needs %zu", config_.ring_bytes, largest),
                "give a larger ring");
  }
  ring_memory_ = backend_.allocate(config_.ring_bytes, "the ring");
  // Slots live at once plus the stale ones of one full circle, each at least the smallest unit.
  const size_t events = 2 * (config_.ring_bytes / smallest + 2);
  for (size_t i = 0; i < events; i++) {
    ready_.push_back(backend_.create_event());
    free_.push_back(backend_.create_event());
  }
}

Feeder::~Feeder() {
  drain();
}

void Feeder::drain() {
  if (!copy_) return;
  try {
    copy_->synchronize();
  } catch (const Error&) {
    // A device that is lost copies no more: there is nothing to wait for.
  }
}

void Feeder::restart() {
  drain();
  ring_ = Ring(config_.ring_bytes);
  slots_.clear();
  next_ = 0;
  counters_.copied_bytes -= counters_.prefetched_bytes;
  counters_.prefetched_bytes = 0;
}

Event& Feeder::event_of(std::vector<std::unique_ptr<Event>>& events, uint64_t sequence) {
  return *events[sequence % events.size()];
}

void Feeder::prefetch() {
  pump();
}

void Feeder::pump() {
  if (streamed_.empty()) return;
  for (;;) {
    const int unit = streamed_[next_];
    const size_t bytes = config_.unit_bytes[unit];
    const std::optional<Ring::Slot> place = ring_.reserve(bytes);
    if (!place) return;
    next_ = (next_ + 1) % streamed_.size();
    if (place->after) {
      const bool skip = static_cast<int64_t>(counters_.free_waits++) == config_.hooks.skip_free_wait;
      if (!skip) copy_->wait(event_of(free_, *place->after));
    }
    copy_->copy(ring_memory_->data() + place->offset, source_.slab(unit), bytes);
    Event& ready = event_of(ready_, place->sequence);
    copy_->record(ready);
    slots_.push_back({*place, unit, &ready});
    counters_.copied_bytes += bytes;
    counters_.prefetched_bytes += bytes;
  }
}

const std::byte* Feeder::acquire(Stream& compute, int unit) {
  if (config_.homes[unit] != Home::streamed) return resident_address_[unit];
  pump();
  if (slots_.empty() || slots_.front().unit != unit) {
    throw Error(code::kInternal, format("unit %d was acquired out of order", unit), "report this as a bug");
  }
  const Slot& slot = slots_.front();
  const bool skip = static_cast<int64_t>(counters_.ready_waits++) == config_.hooks.skip_ready_wait;
  if (!skip) compute.wait(*slot.ready);
  counters_.acquired_units++;
  counters_.prefetched_bytes -= config_.unit_bytes[unit];
  return ring_memory_->data() + slot.place.offset;
}

void Feeder::release(Stream& compute, int unit) {
  if (config_.homes[unit] != Home::streamed) return;
  slots_.pop_front();
  const Ring::Slot place = ring_.release();
  if (config_.poison) compute.fill(ring_memory_->data() + place.offset, 0xff, place.bytes);
  compute.record(event_of(free_, place.sequence));
  pump();
}

size_t Feeder::resident_bytes() const {
  size_t total = 0;
  for (const auto& memory : resident_) total += memory->size();
  return total;
}

}  // namespace millrace
