#include "stream/feeder.h"

#include <algorithm>
#include <iterator>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "stream/reclaim.h"

namespace millrace {

namespace {

// It passes through the ring of this feeder now and then.
bool may_pass(Home home) {
  return home != Home::resident && home != Home::elsewhere;
}

}  // namespace

Feeder::Feeder(Backend& backend, const SlabSource& source, FeederConfig config)
    : backend_(backend),
      source_(source),
      config_(std::move(config)),
      places_(config_.homes.size()),
      ringed_(config_.homes.size(), false),
      wanted_(config_.homes.size(), false),
      ring_(0) {
  check(config_.homes, config_.ring_bytes);
  copy_ = backend_.create_stream();
  make_windows();
  if (window_) {
    std::vector<int> brought;
    for (size_t unit = 0; unit < config_.homes.size(); unit++) {
      const bool comes = config_.homes[unit] == Home::resident && source_.in_file(static_cast<int>(unit));
      if (comes && !backend_.reads_host_memory()) brought.push_back(static_cast<int>(unit));
    }
    window_->expect(std::move(brought), {});
  }
  for (size_t unit = 0; unit < config_.homes.size(); unit++) {
    const Home home = config_.homes[unit];
    ringed_[unit] = home == Home::streamed;
    if (home != Home::resident && home != Home::demand) continue;
    Place& place = places_[unit];
    if (windowed(static_cast<int>(unit))) continue;
    if (backend_.reads_host_memory()) {
      place.address = source_.slab(static_cast<int>(unit));
    } else {
      const size_t bytes = own_bytes(static_cast<int>(unit));
      place.memory = backend_.allocate(bytes, "a resident unit");
      place.address = place.memory->data();
      enqueue_copy(place.memory->data(), static_cast<int>(unit), bytes);
    }
    place.state = Place::there;
  }
  copy_->synchronize();
  make_ring(config_.ring_bytes);
  next_pass_ = ring_order(Route::decode);
  expect();
  if (config_.arena != nullptr) config_.arena->join();
}

Feeder::~Feeder() {
  drain();
  leave_arena();
}

void Feeder::leave_arena() {
  if (config_.arena == nullptr) return;
  for (size_t unit = 0; unit < places_.size(); unit++) {
    Arena::Block* block = places_[unit].block;
    if (block == nullptr) continue;
    evicted(static_cast<int>(unit));
    config_.arena->give_back(*block);
  }
  std::exchange(config_.arena, nullptr)->leave();
}

void Feeder::check(const std::vector<Home>& homes, size_t ring_bytes) const {
  size_t largest = 0;
  for (size_t unit = 0; unit < homes.size(); unit++) {
    if (may_pass(homes[unit])) largest = std::max(largest, config_.unit_bytes[unit]);
    if (homes[unit] == Home::shared && config_.arena == nullptr) {
      throw Error(code::kInvalidArgument, "shared units need an arena", "give them another home");
    }
  }
  if (ring_bytes < largest) {
    throw Error(
        code::kInvalidArgument,
        format("the ring has %zu bytes, the largest unit that may pass through it needs %zu", ring_bytes, largest),
        "give a larger ring");
  }
}

FeederCounters& FeederCounters::operator+=(const FeederCounters& other) {
  copied_bytes += other.copied_bytes;
  prefetched_bytes += other.prefetched_bytes;
  acquired_units += other.acquired_units;
  ready_waits += other.ready_waits;
  free_waits += other.free_waits;
  place_waits += other.place_waits;
  staged_bytes += other.staged_bytes;
  dropped_bytes += other.dropped_bytes;
  shared_bytes += other.shared_bytes;
  file_bytes += other.file_bytes;
  return *this;
}

FeederCounters Feeder::counters() const {
  FeederCounters counters = counters_;
  for (const auto* window : {window_.get(), computed_.get()}) {
    if (window != nullptr) counters.file_bytes += window->taken_bytes();
  }
  return counters;
}

bool Feeder::reads_file() const {
  for (size_t unit = 0; unit < config_.homes.size(); unit++) {
    if (!source_.in_file(static_cast<int>(unit)) || config_.homes[unit] == Home::elsewhere) continue;
    if (config_.homes[unit] != Home::resident || windowed(static_cast<int>(unit))) return true;
  }
  return false;
}

// Those that homes may ask for are there whatever homes are now: units move while a model serves.
void Feeder::make_windows() {
  std::vector<int> units;
  bool copied = false, computed = false;
  for (size_t i = 0; i < config_.homes.size(); i++) {
    const int unit = static_cast<int>(i);
    if (!source_.in_file(unit) || config_.homes[i] == Home::elsewhere) continue;
    if (config_.homes[i] == Home::cpu || config_.homes[i] == Home::demand) {
      throw Error(code::kInvalidArgument,
                  "units on the CPU beside a GPU, and experts on demand, cannot stay in the file",
                  "give them another home, or load with a larger ramBudget");
    }
    units.push_back(unit);
    (windowed(unit) ? computed : copied) = true;
  }
  const auto make = [&](std::unique_ptr<FileWindow>& window) {
    if (window) return;
    window = std::make_unique<FileWindow>(backend_, source_.file(), units, config_.window_bytes, config_.window_hooks);
  };
  if (copied) make(window_);
  if (computed) make(computed_);
}

void Feeder::expect() {
  const auto in_file = [&](const auto& order) {
    std::vector<int> units;
    std::ranges::copy_if(order, std::back_inserter(units), [&](int unit) { return source_.in_file(unit); });
    return units;
  };
  if (window_) window_->expect(in_file(to_fill_), in_file(next_pass_));
  if (!computed_) return;
  std::vector<int> units;
  for (size_t unit = 0; unit < config_.homes.size(); unit++) {
    if (windowed(static_cast<int>(unit))) units.push_back(static_cast<int>(unit));
  }
  computed_->expect(units, units);
}

void Feeder::make_ring(size_t wish) {
  size_t smallest = SIZE_MAX, largest = 0;
  for (size_t unit = 0; unit < config_.homes.size(); unit++) {
    if (!may_pass(config_.homes[unit])) continue;
    smallest = std::min(smallest, config_.unit_bytes[unit]);
    largest = std::max(largest, config_.unit_bytes[unit]);
  }
  const size_t bytes = largest == 0 ? 0 : std::max(wish, largest);
  slots_.clear();
  to_fill_.clear();
  if (ring_bytes() != bytes) {
    ring_ = Ring(0);
    reclaim(std::move(ring_memory_));
    for (size_t size = bytes; size > 0 && !ring_memory_; size = std::max(largest, size / 2)) {
      try {
        ring_memory_ = allocate_after_reclaim(backend_, size, "the ring");
      } catch (const Error& error) {
        // A device whose memory others have taken: a smaller ring is slower, but a ring.
        if (size == largest || std::string_view(error.code()) != code::kOutOfMemory) throw;
      }
    }
  }
  ring_ = Ring(ring_bytes());
  if (!ring_memory_) return;
  // Slots live at once plus the stale ones of one full circle, each at least the smallest unit.
  const size_t events = 2 * (ring_bytes() / smallest + 2);
  while (ready_.size() < events) {
    ready_.push_back(backend_.create_event());
    free_.push_back(backend_.create_event());
  }
}

size_t Feeder::own_bytes(int unit) const {
  return config_.homes[unit] == Home::demand ? config_.own_bytes[unit] : config_.unit_bytes[unit];
}

void Feeder::enqueue_copy(std::byte* destination, int unit, size_t bytes) {
  if (trace_ != nullptr) trace_->begin(track_, names_[unit]);
  if (source_.in_file(unit)) {
    copy_->copy(destination, window_->take(unit), bytes);
    window_->release(*copy_);
  } else if (source_.pinned(unit)) {
    copy_->copy(destination, source_.slab(unit), bytes);
  } else {
    if (!stager_) stager_ = std::make_unique<Stager>(backend_, config_.stage_threads);
    stager_->copy(*copy_, destination, source_.slab(unit), bytes);
    counters_.staged_bytes += bytes;
  }
  if (trace_ != nullptr) trace_->end(track_);
}

void Feeder::bring(int unit, std::byte* memory) {
  Place& place = places_[unit];
  if (!place.ready) place.ready = backend_.create_event();
  enqueue_copy(memory, unit, own_bytes(unit));
  copy_->record(*place.ready);
  place.address = memory;
  place.state = Place::coming;
  place.waited = false;
}

void Feeder::evicted(int unit) {
  Place& place = places_[unit];
  // A pass that used it not has not waited for its copy either: whoever has the block next must not find it written.
  if (place.state == Place::coming && !place.waited) {
    try {
      place.ready->synchronize();
    } catch (const Error&) {
      // A device that is lost copies no more.
    }
  }
  place.block = nullptr;
  place.state = Place::absent;
}

void Feeder::drain() {
  if (!copy_) return;
  try {
    copy_->synchronize();
  } catch (const Error&) {
    // A device that is lost copies no more: there is nothing to wait for.
    copies_failed_ = true;
  }
}

void Feeder::restart() {
  drain();
  const bool whole = !std::exchange(copies_failed_, false);
  ring_ = Ring(ring_.bytes());
  slots_.clear();
  to_fill_.clear();
  for (Place& place : places_) {
    if (place.state != Place::coming) continue;
    place.state = whole ? Place::there : Place::absent;
    if (whole || place.block == nullptr) continue;
    config_.arena->give_back(*place.block);
    place.block = nullptr;
  }
  next_pass_ = ring_order(Route::decode);
  if (window_) window_->reset();
  if (computed_) computed_->reset();
  expect();
  counters_.copied_bytes -= counters_.prefetched_bytes;
  counters_.prefetched_bytes = 0;
}

Event& Feeder::event_of(std::vector<std::unique_ptr<Event>>& events, uint64_t sequence) {
  return *events[sequence % events.size()];
}

std::vector<int> Feeder::ring_order(Route route) const {
  std::vector<int> order;
  for (size_t unit = 0; unit < config_.homes.size(); unit++) {
    const Home home = config_.homes[unit];
    const bool passes = home == Home::streamed ||
                        ((home == Home::cpu || home == Home::demand) && route == Route::prefill) ||
                        (home == Home::shared && places_[unit].state == Place::absent);
    if (passes) order.push_back(static_cast<int>(unit));
  }
  return order;
}

// As many shared units as the arena can ever hold, spread evenly over the pass: copies and compute then alternate.
void Feeder::choose_wanted() {
  if (config_.arena == nullptr || wanted_limit_ == config_.arena->limit()) return;
  wanted_limit_ = config_.arena->limit();
  size_t total = 0;
  for (size_t unit = 0; unit < config_.homes.size(); unit++) {
    if (config_.homes[unit] == Home::shared) total += config_.unit_bytes[unit];
  }
  if (total == 0) return;
  const double needed = static_cast<double>(total) + static_cast<double>(config_.arena_beside);
  const double share = std::min(1.0, static_cast<double>(wanted_limit_) / needed);
  size_t passed = 0, chosen = 0;
  for (size_t unit = 0; unit < config_.homes.size(); unit++) {
    if (config_.homes[unit] != Home::shared) continue;
    passed += config_.unit_bytes[unit];
    const double due = share * static_cast<double>(passed);
    wanted_[unit] = share == 1.0 || static_cast<double>(chosen + config_.unit_bytes[unit]) <= due;
    if (wanted_[unit]) {
      chosen += config_.unit_bytes[unit];
    } else if (Arena::Block* block = places_[unit].block) {
      evicted(static_cast<int>(unit));
      config_.arena->give_back(*block);
    }
  }
}

size_t Feeder::missing_bytes() {
  choose_wanted();
  size_t bytes = 0;
  for (size_t unit = 0; unit < config_.homes.size(); unit++) {
    if (wanted_[unit] && places_[unit].state == Place::absent) bytes += config_.unit_bytes[unit];
  }
  return bytes;
}

void Feeder::begin(Route route, Route next) {
  if (!ring_memory_) make_ring(config_.ring_bytes);  // if there was no room for it: there may be now
  choose_wanted();
  if (window_) {
    std::vector<int> brought;
    for (size_t unit = 0; unit < config_.homes.size(); unit++) {
      const bool comes = wanted_[unit] && places_[unit].state == Place::absent;
      if (comes && source_.in_file(static_cast<int>(unit))) brought.push_back(static_cast<int>(unit));
    }
    if (!brought.empty()) window_->expect(std::move(brought), {});
  }
  for (size_t i = 0; i < config_.homes.size(); i++) {
    const int unit = static_cast<int>(i);
    Place& place = places_[unit];
    if (place.state == Place::coming && place.waited) place.state = Place::there;
    if (place.state == Place::absent && place.memory) bring(unit, place.memory->data());  // its copy had failed
    if (!wanted_[unit] || place.state != Place::absent) continue;
    place.block = config_.arena->take(backend_, config_.unit_bytes[unit], *this, unit);
    if (place.block == nullptr) continue;
    try {
      bring(unit, place.block->memory->data());
    } catch (...) {
      drain();  // part of it may be on its way
      config_.arena->give_back(*place.block);
      place.block = nullptr;
      throw;
    }
    counters_.copied_bytes += config_.unit_bytes[unit];
    counters_.shared_bytes += config_.unit_bytes[unit];
  }

  const std::vector<int> order = ring_order(route);
  std::fill(ringed_.begin(), ringed_.end(), false);
  for (const int unit : order) ringed_[unit] = true;
  next_pass_ = ring_order(next);
  // What is in the ring was meant for the pass that was expected: this one may need others.
  const auto expected = [&](size_t i) {
    if (i < order.size()) return order[i];
    return next_pass_.empty() ? -1 : next_pass_[(i - order.size()) % next_pass_.size()];
  };
  size_t fit = 0;
  while (fit < slots_.size() && slots_[fit].unit == expected(fit)) fit++;
  while (slots_.size() > fit) {
    const size_t bytes = config_.unit_bytes[slots_.back().unit];
    counters_.prefetched_bytes -= bytes;
    counters_.dropped_bytes += bytes;
    ring_.cancel();
    slots_.pop_back();
  }
  to_fill_.clear();
  if (fit < order.size()) {
    to_fill_.insert(to_fill_.end(), order.begin() + static_cast<ptrdiff_t>(fit), order.end());
  } else if (!next_pass_.empty()) {
    const size_t ahead = (fit - order.size()) % next_pass_.size();
    to_fill_.insert(to_fill_.end(), next_pass_.begin() + static_cast<ptrdiff_t>(ahead), next_pass_.end());
  }
  expect();
}

void Feeder::prefetch() {
  try {
    pump();
  } catch (...) {
    restart();  // a slot whose copy could not be enqueued must not stay reserved
    throw;
  }
}

void Feeder::pump(bool waits) {
  for (;;) {
    if (to_fill_.empty()) to_fill_.insert(to_fill_.end(), next_pass_.begin(), next_pass_.end());
    if (to_fill_.empty()) return;
    const int unit = to_fill_.front();
    if (source_.in_file(unit) && !(waits && slots_.empty()) && !window_->ready(unit)) return;
    const size_t bytes = config_.unit_bytes[unit];
    const std::optional<Ring::Slot> place = ring_.reserve(bytes);
    if (!place) return;
    to_fill_.pop_front();
    if (place->after) {
      const bool skip = static_cast<int64_t>(counters_.free_waits++) == config_.hooks.skip_free_wait;
      if (!skip) copy_->wait(event_of(free_, *place->after));
    }
    enqueue_copy(ring_memory_->data() + place->offset, unit, bytes);
    Event& ready = event_of(ready_, place->sequence);
    copy_->record(ready);
    slots_.push_back({*place, unit, &ready});
    counters_.copied_bytes += bytes;
    counters_.prefetched_bytes += bytes;
  }
}

const std::byte* Feeder::acquire(Stream& compute, int unit) {
  if (windowed(unit)) return computed_->take(unit);
  if (!ringed_[unit]) {
    Place& place = places_[unit];
    if (place.state == Place::coming && !place.waited) {
      const bool skip = static_cast<int64_t>(counters_.place_waits++) == config_.hooks.skip_place_wait;
      if (!skip) compute.wait(*place.ready);
      place.waited = true;
    }
    if (place.block != nullptr) config_.arena->touch(*place.block);
    return place.address;
  }
  pump(true);
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
  if (windowed(unit)) computed_->release(compute);
  if (!ringed_[unit]) return;
  slots_.pop_front();
  const Ring::Slot place = ring_.release();
  if (config_.poison) compute.fill(ring_memory_->data() + place.offset, 0xff, place.bytes);
  compute.record(event_of(free_, place.sequence));
  pump();
}

void Feeder::check_homes(const std::vector<Home>& homes, size_t ring_bytes) const {
  for (size_t unit = 0; unit < homes.size() || unit < config_.homes.size(); unit++) {
    const auto fixed = [](Home home) { return home != Home::resident && home != Home::streamed; };
    if (homes.size() == config_.homes.size() &&
        (homes[unit] == config_.homes[unit] || (!fixed(homes[unit]) && !fixed(config_.homes[unit])))) {
      continue;
    }
    throw Error(code::kInvalidArgument, "a model that is loaded can only move units between resident and streamed",
                "load it again with the other placement");
  }
  check(homes, ring_bytes);
}

void Feeder::set_homes(std::vector<Home> homes, size_t ring_bytes) {
  check_homes(homes, ring_bytes);
  restart();
  // Homes and places change together: whatever fails in between, each unit is where its home says.
  for (size_t unit = 0; unit < homes.size(); unit++) {
    if (homes[unit] != Home::streamed || config_.homes[unit] != Home::resident) continue;
    config_.homes[unit] = Home::streamed;
    reclaim(std::move(places_[unit].memory));
    places_[unit] = Place{};
  }
  config_.ring_bytes = ring_bytes;
  make_ring(ring_bytes);  // before the uploads, which may need what a larger one had
  for (size_t i = 0; i < homes.size(); i++) {
    const int unit = static_cast<int>(i);
    if (homes[unit] != Home::resident || config_.homes[unit] == Home::resident) continue;
    Place& place = places_[unit];
    if (backend_.reads_host_memory()) {
      if (!source_.in_file(unit)) place.address = source_.slab(unit);
      place.state = Place::there;
    } else {
      try {
        place.memory = allocate_after_reclaim(backend_, config_.unit_bytes[unit], "a resident unit");
        bring(unit, place.memory->data());
      } catch (const Error& error) {
        drain();  // what part of it is on its way
        place = Place{};
        const std::string_view why = error.code();
        if (why != code::kOutOfMemory && why != code::kReadFailed) throw;
        continue;  // it stays streamed, and the next pass tells what cannot be read
      }
    }
    config_.homes[unit] = Home::resident;
  }
  make_ring(ring_bytes);
  make_windows();
  next_pass_ = ring_order(Route::decode);
  expect();
}

void Feeder::set_trace(Trace* trace, Trace::Track track, std::vector<std::string> names) {
  if (trace != nullptr) {
    copy_->synchronize();
    trace->attach(track, backend_, *copy_);
  }
  trace_ = trace;
  track_ = track;
  names_ = std::move(names);
}

size_t Feeder::resident_bytes() const {
  size_t total = 0;
  for (const Place& place : places_) total += place.memory ? place.memory->size() : 0;
  return total;
}

size_t Feeder::shared_bytes() const {
  size_t total = 0;
  for (const Place& place : places_) total += place.block != nullptr ? place.block->memory->size() : 0;
  return total;
}

}  // namespace millrace
