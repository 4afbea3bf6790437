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
    if (config_.homes[unit] == Home::resident) continue;
    if (config_.homes[unit] == Home::streamed) order_[0].push_back(static_cast<int>(unit));
    order_[1].push_back(static_cast<int>(unit));
    largest = std::max(largest, config_.unit_bytes[unit]);
    smallest = std::min(smallest, config_.unit_bytes[unit]);
  }
  copy_ = backend_.create_stream();
  for (size_t unit = 0; unit < config_.homes.size(); unit++) {
    if (config_.homes[unit] != Home::resident) continue;
    if (backend_.reads_host_memory()) {
      resident_address_[unit] = source_.slab(static_cast<int>(unit));
      continue;
    }
    resident_.push_back(backend_.allocate(config_.unit_bytes[unit], "a resident unit"));
    resident_address_[unit] = resident_.back()->data();
    enqueue_copy(resident_.back()->data(), static_cast<int>(unit));
  }
  copy_->synchronize();
  if (largest == 0) return;
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

void Feeder::enqueue_copy(std::byte* destination, int unit) {
  const size_t bytes = config_.unit_bytes[unit];
  if (source_.pinned(unit)) {
    copy_->copy(destination, source_.slab(unit), bytes);
    return;
  }
  if (!stager_) stager_ = std::make_unique<Stager>(backend_, config_.stage_threads);
  stager_->copy(*copy_, destination, source_.slab(unit), bytes);
  counters_.staged_bytes += bytes;
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
  filling_ = Route::decode;
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

bool Feeder::streams(int unit) const {
  return config_.homes[unit] == Home::streamed || (config_.homes[unit] == Home::cpu && route_ == Route::prefill);
}

void Feeder::begin(Route route) {
  route_ = route;
  const std::vector<int>& units = order_[static_cast<int>(route)];
  // All that is copied ahead was meant for passes of the decode route.
  if (route == Route::decode || units.size() == order_[0].size()) return;
  size_t fit = 0;
  while (fit < slots_.size() && fit < units.size() && slots_[fit].unit == units[fit]) fit++;
  while (slots_.size() > fit) {
    const size_t bytes = config_.unit_bytes[slots_.back().unit];
    counters_.prefetched_bytes -= bytes;
    counters_.dropped_bytes += bytes;
    ring_.cancel();
    slots_.pop_back();
  }
  filling_ = route;
  next_ = fit;
}

void Feeder::pump() {
  for (;;) {
    if (next_ == order().size()) {  // the next pass is expected to decode
      filling_ = Route::decode;
      next_ = 0;
    }
    if (order().empty()) return;
    const int unit = order()[next_];
    const size_t bytes = config_.unit_bytes[unit];
    const std::optional<Ring::Slot> place = ring_.reserve(bytes);
    if (!place) return;
    next_++;
    if (place->after) {
      const bool skip = static_cast<int64_t>(counters_.free_waits++) == config_.hooks.skip_free_wait;
      if (!skip) copy_->wait(event_of(free_, *place->after));
    }
    enqueue_copy(ring_memory_->data() + place->offset, unit);
    Event& ready = event_of(ready_, place->sequence);
    copy_->record(ready);
    slots_.push_back({*place, unit, &ready});
    counters_.copied_bytes += bytes;
    counters_.prefetched_bytes += bytes;
  }
}

const std::byte* Feeder::acquire(Stream& compute, int unit) {
  if (!streams(unit)) return resident_address_[unit];
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
  if (!streams(unit)) return;
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
