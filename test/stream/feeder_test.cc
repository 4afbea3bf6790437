// The property that streaming stands on: whatever the sizes, the ring, the homes and the delays, compute finds each
// unit's bytes at the address it was given; and each wait is needed for that.
#include "stream/feeder.h"

#include <atomic>
#include <chrono>
#include <climits>
#include <cstring>
#include <thread>

#include "backend/cpu/cpu_backend.h"
#include "check.h"
#include "core/error.h"
#include "small_device.h"
#include "stream/arena.h"
#include "stream/pinning.h"
#include "stream/stager.h"

using namespace millrace;

namespace {

// Slabs of random sizes whose bytes tell the unit, the place within it and the round of the test.
class Slabs : public SlabSource {
 public:
  Slabs(int units, size_t smallest, size_t largest, std::mt19937_64& random) {
    for (int unit = 0; unit < units; unit++) {
      std::vector<std::byte> bytes(smallest + random() % (largest - smallest + 1));
      for (auto& b : bytes) b = static_cast<std::byte>(random() % 251 + 1);
      slabs_.push_back(std::move(bytes));
    }
  }
  const std::byte* slab(int unit) const override { return slabs_[unit].data(); }
  bool pinned(int unit) const override { return unit < pinned_; }
  void pin(int first) { pinned_ = first; }
  size_t bytes(int unit) const { return slabs_[unit].size(); }
  int units() const { return static_cast<int>(slabs_.size()); }

 private:
  std::vector<std::vector<std::byte>> slabs_;
  int pinned_ = INT_MAX;
};

struct Run {
  FeederConfig config;
  int passes = 3;
  uint64_t routes = 0;  // bit p: pass p takes the prefill route
  CpuStreamHooks copy_hooks, compute_hooks;
};

struct Outcome {
  bool exact = true;    // every unit of every pass was read as it is in its source
  size_t streamed = 0;  // bytes that passes took from the ring
  FeederCounters counters;
};

// "Computes" by copying what it finds at the unit's address; compares once all has run.
Outcome run(const Slabs& slabs, Run setup) {
  for (int unit = 0; unit < slabs.units(); unit++) setup.config.unit_bytes.push_back(slabs.bytes(unit));
  const auto backend = create_cpu_backend(1, setup.copy_hooks);
  const auto compute_backend = create_cpu_backend(1, setup.compute_hooks);
  const auto compute = compute_backend->create_stream();
  std::vector<std::vector<std::byte>> seen;
  std::vector<int> units;
  Outcome outcome;
  {
    Feeder feeder(*backend, slabs, setup.config);
    feeder.prefetch();
    for (int pass = 0; pass < setup.passes; pass++) {
      const bool prefill = (setup.routes >> pass & 1) != 0;
      feeder.begin(prefill ? Route::prefill : Route::decode);
      for (int unit = 0; unit < slabs.units(); unit++) {
        const Home home = setup.config.homes[unit];
        CHECK_EQ(feeder.streams(unit), home == Home::streamed || (home == Home::cpu && prefill));
        if (home == Home::cpu && !prefill) continue;
        seen.emplace_back(slabs.bytes(unit));
        units.push_back(unit);
        const std::byte* address = feeder.acquire(*compute, unit);
        if (home != Home::resident) {
          CHECK(address != slabs.slab(unit));  // compute reads nothing but its slot
          outcome.streamed += slabs.bytes(unit);
        }
        compute->copy(seen.back().data(), address, slabs.bytes(unit));
        feeder.release(*compute, unit);
      }
    }
    compute->synchronize();
    outcome.counters = feeder.counters();
  }
  for (size_t i = 0; i < seen.size(); i++) {
    if (std::memcmp(seen[i].data(), slabs.slab(units[i]), seen[i].size()) != 0) outcome.exact = false;
  }
  return outcome;
}

std::function<void()> pause_of(std::chrono::microseconds time) {
  return [time] { std::this_thread::sleep_for(time); };
}

// Thread-safe, so that several streams may share it.
std::function<void()> random_pauses(uint64_t seed, int most_us) {
  auto state = std::make_shared<std::atomic<uint64_t>>(seed);
  return [state, most_us] {
    uint64_t x = state->fetch_add(0x9e3779b97f4a7c15ull, std::memory_order_relaxed);
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x ^= x >> 27;
    if (x % 3 == 0) std::this_thread::sleep_for(std::chrono::microseconds(x / 3 % most_us));
  };
}

}  // namespace

TEST(every_unit_arrives_whatever_the_sizes_homes_and_delays) {
  auto random = check::random();
  for (int round = 0; round < 90; round++) {
    Slabs slabs(2 + static_cast<int>(random() % 9), 16, 4096, random);
    Run setup;
    size_t largest = 1;
    for (int unit = 0; unit < slabs.units(); unit++) {
      const uint64_t choice = random() % 6;
      setup.config.homes.push_back(choice == 0 ? Home::resident : choice == 1 ? Home::cpu : Home::streamed);
      if (choice != 0) largest = std::max(largest, slabs.bytes(unit));
    }
    setup.config.ring_bytes = largest + random() % (3 * largest);
    setup.config.poison = random() % 2 == 0;
    setup.config.stage_threads = 2;
    if (random() % 3 == 0) slabs.pin(static_cast<int>(random() % slabs.units()));
    setup.copy_hooks.copy_chunk = 512;
    setup.compute_hooks.copy_chunk = 512;
    setup.copy_hooks.before_copy = random_pauses(random(), 80);
    setup.compute_hooks.before_copy = random_pauses(random(), 80);
    setup.passes = 1 + static_cast<int>(random() % 5);
    setup.routes = random();
    const Outcome outcome = run(slabs, setup);
    CHECK(outcome.exact);
    const FeederCounters& counters = outcome.counters;
    CHECK_EQ(counters.copied_bytes - counters.prefetched_bytes - counters.dropped_bytes, outcome.streamed);
  }
}

// A wait left out is a race, and on a busy machine either side may lose it by chance: it must show within a few tries,
// each slower than the one before.
template <typename Differs>
bool shows(Differs differs) {
  for (int us = 1000; us <= 32000; us *= 2) {
    if (differs(pause_of(std::chrono::microseconds(us)))) return true;
  }
  return false;
}

// Slow copies: compute that does not wait for `ready` reads what the slot held before.
TEST(every_ready_wait_is_needed) {
  if (kRaceDetector) SKIP("the race that this test makes on purpose is what ThreadSanitizer reports");
  auto random = check::random(2);
  const Slabs slabs(6, 256, 4096, random);
  Run setup;
  setup.config.homes.assign(slabs.units(), Home::streamed);
  setup.config.homes[2] = Home::resident;
  setup.config.ring_bytes = 8192;
  setup.config.poison = true;  // or a slot could still hold the same unit from the pass before
  setup.passes = 2;
  const Outcome whole = run(slabs, setup);
  CHECK(whole.exact);
  CHECK_EQ(whole.counters.ready_waits, 10u);
  for (int64_t wait = 0; wait < static_cast<int64_t>(whole.counters.ready_waits); wait++) {
    setup.config.hooks.skip_ready_wait = wait;
    CHECK(shows([&](std::function<void()> pause) {
      setup.copy_hooks.before_copy = std::move(pause);
      return !run(slabs, setup).exact;
    }));
  }
}

// Slow compute: a copy that does not wait for `free` overwrites what is still to be read.
TEST(every_free_wait_is_needed) {
  if (kRaceDetector) SKIP("the race that this test makes on purpose is what ThreadSanitizer reports");
  auto random = check::random(3);
  const Slabs slabs(6, 2048, 4096, random);
  Run setup;
  setup.config.homes.assign(slabs.units(), Home::streamed);
  setup.config.ring_bytes = 8192;
  setup.config.poison = true;
  setup.passes = 2;
  const Outcome whole = run(slabs, setup);
  CHECK(whole.exact);
  CHECK(whole.counters.free_waits >= 8u);
  for (int64_t wait = 0; wait < static_cast<int64_t>(whole.counters.free_waits); wait++) {
    setup.config.hooks.skip_free_wait = wait;
    CHECK(shows([&](std::function<void()> pause) {
      setup.compute_hooks.before_copy = std::move(pause);
      return !run(slabs, setup).exact;
    }));
  }
}

// Units on their way to memory of their own: compute follows each copy.
TEST(every_wait_for_a_unit_of_the_arena_is_needed) {
  if (kRaceDetector) SKIP("the race that this test makes on purpose is what ThreadSanitizer reports");
  auto random = check::random(11);
  const Slabs slabs(5, 1024, 4096, random);
  const auto exact = [&](int64_t skipped, std::function<void()> pause) {
    CpuStreamHooks hooks;
    hooks.before_copy = std::move(pause);
    SmallDevice device(hooks, 100000);
    const auto compute = create_cpu_backend(1)->create_stream();
    Arena arena;
    FeederConfig config;
    config.homes.assign(slabs.units(), Home::shared);
    for (int unit = 0; unit < slabs.units(); unit++) config.unit_bytes.push_back(slabs.bytes(unit));
    config.ring_bytes = 4096;
    config.arena = &arena;
    config.hooks.skip_place_wait = skipped;
    std::vector<std::vector<std::byte>> seen;
    for (int unit = 0; unit < slabs.units(); unit++) seen.emplace_back(slabs.bytes(unit));
    Feeder feeder(device, slabs, config);
    arena.set_limit(100000);
    feeder.begin(Route::decode);
    for (int unit = 0; unit < slabs.units(); unit++) {
      compute->copy(seen[unit].data(), feeder.acquire(*compute, unit), slabs.bytes(unit));
      feeder.release(*compute, unit);
    }
    compute->synchronize();
    CHECK_EQ(feeder.counters().place_waits, 5u);
    for (int unit = 0; unit < slabs.units(); unit++) {
      if (std::memcmp(seen[unit].data(), slabs.slab(unit), seen[unit].size()) != 0) return false;
    }
    return true;
  };
  CHECK(exact(-1, pause_of(std::chrono::milliseconds(2))));
  for (int64_t wait = 0; wait < slabs.units(); wait++) {
    CHECK(shows([&](std::function<void()> pause) { return !exact(wait, std::move(pause)); }));
  }
}

// The host only enqueues: it never waits for a unit, however slow the copies are.
TEST(the_host_runs_ahead_of_slow_copies) {
  auto random = check::random(4);
  const Slabs slabs(8, 1024, 1024, random);
  std::atomic<bool> go{false};
  CpuStreamHooks hooks;
  hooks.before_copy = [&] {
    while (!go.load()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  };
  const auto backend = create_cpu_backend(1, hooks);
  const auto compute = create_cpu_backend(1)->create_stream();
  FeederConfig config;
  config.homes.assign(slabs.units(), Home::streamed);
  for (int unit = 0; unit < slabs.units(); unit++) config.unit_bytes.push_back(slabs.bytes(unit));
  config.ring_bytes = 2048;
  Feeder feeder(*backend, slabs, config);
  std::vector<std::byte> out(1024);
  for (int unit = 0; unit < slabs.units(); unit++) {  // would hang here if acquire or release waited
    compute->copy(out.data(), feeder.acquire(*compute, unit), 1024);
    feeder.release(*compute, unit);
  }
  go.store(true);
  compute->synchronize();
  CHECK(std::memcmp(out.data(), slabs.slab(7), 1024) == 0);
}

namespace {

// Two or more models' feeders on one device take turns, with arenas that grow and shrink and units that move between
// resident and streamed in between: what compute reads is exact all the same.
struct Tenant {
  Tenant(Backend& backend, const Slabs& slabs, FeederConfig config) : slabs(slabs), feeder(backend, slabs, config) {}
  void pass(Stream& compute, Route route) {
    feeder.begin(route);
    for (int unit = 0; unit < slabs.units(); unit++) {
      if (feeder.homes()[unit] == Home::cpu && !feeder.streams(unit)) continue;
      const bool permanent = feeder.permanent(unit);
      std::vector<std::byte> bytes(slabs.bytes(unit));
      const std::byte* address = feeder.acquire(compute, unit);
      // What is there for good may be read at any time of the pass, before the stream has come to it.
      if (permanent && std::memcmp(address, slabs.slab(unit), bytes.size()) != 0) exact = false;
      seen.push_back({unit, std::move(bytes)});
      compute.copy(seen.back().bytes.data(), address, slabs.bytes(unit));
      feeder.release(compute, unit);
    }
  }
  // With the compute stream at rest.
  void compare() {
    for (const auto& [unit, bytes] : seen) {
      if (std::memcmp(bytes.data(), slabs.slab(unit), bytes.size()) != 0) exact = false;
    }
    seen.clear();
  }
  struct Seen {
    int unit;
    std::vector<std::byte> bytes;
  };
  const Slabs& slabs;
  Feeder feeder;
  std::deque<Seen> seen;
  bool exact = true;
};

}  // namespace

TEST(models_share_an_arena_and_move_their_units_without_a_byte_wrong) {
  auto random = check::random(7);
  for (int round = 0; round < 40; round++) {
    CpuStreamHooks hooks;
    hooks.copy_chunk = 512;
    hooks.before_copy = random_pauses(random(), 60);
    constexpr size_t kDevice = 60000;
    SmallDevice device(hooks, kDevice);
    {
      Arena arena;
      const auto compute = device.create_stream();
      std::deque<Slabs> slabs;
      std::deque<Tenant> tenants;
      const int models = 1 + static_cast<int>(random() % 3);
      const int units = 2 + static_cast<int>(random() % 6);
      const bool alike = random() % 2 == 0;  // all models of one shape: blocks change hands
      for (int m = 0; m < models; m++) {
        slabs.emplace_back(alike ? units : 2 + static_cast<int>(random() % 6), alike ? 2048 : 16, 2048, random);
        FeederConfig config;
        size_t largest = 0;
        for (int unit = 0; unit < slabs[m].units(); unit++) {
          const Home homes[] = {Home::resident, Home::streamed, Home::cpu, Home::shared, Home::shared, Home::shared};
          config.homes.push_back(homes[random() % 6]);
          config.unit_bytes.push_back(slabs[m].bytes(unit));
          largest = std::max(largest, slabs[m].bytes(unit));
        }
        config.ring_bytes = largest + random() % (2 * largest);
        config.arena = &arena;
        config.poison = true;
        tenants.emplace_back(device, slabs[m], config);
      }
      for (int step = 0; step < 30; step++) {
        Tenant& tenant = tenants[random() % tenants.size()];
        if (random() % 4 == 0) arena.set_limit(random() % 20000);
        if (random() % 5 == 0) {
          std::vector<Home> homes = tenant.feeder.homes();
          size_t largest = 0;
          for (size_t unit = 0; unit < homes.size(); unit++) {
            if (homes[unit] == Home::resident || homes[unit] == Home::streamed) {
              homes[unit] = random() % 2 == 0 ? Home::resident : Home::streamed;
            }
            largest = std::max(largest, tenant.slabs.bytes(static_cast<int>(unit)));
          }
          tenant.feeder.set_homes(homes, largest + random() % largest);
          if (random() % 2 == 0) tenant.feeder.prefetch();
        }
        if (random() % 9 == 0) tenant.feeder.restart();
        for (int passes = 1 + static_cast<int>(random() % 2); passes > 0; passes--) {
          tenant.pass(*compute, random() % 4 == 0 ? Route::prefill : Route::decode);
          compute->synchronize();  // the engine runs one pass at a time
        }
        tenant.compare();
        CHECK(tenant.exact);
        CHECK(arena.bytes() <= arena.limit());
      }
      tenants.clear();
      CHECK_EQ(arena.bytes(), 0u);  // when the last model has left
      CHECK_EQ(device.left(), kDevice);
    }
    CHECK_EQ(device.left(), kDevice);  // all of it was given back
  }
}

TEST(a_device_that_is_full_leaves_units_streamed) {
  auto random = check::random(8);
  const Slabs slabs(6, 1000, 1000, random);
  SmallDevice device({}, 5500);
  FeederConfig config;
  config.homes.assign(6, Home::streamed);
  config.unit_bytes.assign(6, 1000);
  config.ring_bytes = 2000;
  const auto compute = device.create_stream();
  Tenant tenant(device, slabs, config);
  tenant.pass(*compute, Route::decode);
  compute->synchronize();
  tenant.feeder.set_homes(std::vector<Home>(6, Home::resident), 0);
  int resident = 0;
  for (const Home home : tenant.feeder.homes()) resident += home == Home::resident;
  CHECK_EQ(resident, 4);  // and a ring of one unit for the two others
  tenant.pass(*compute, Route::decode);
  compute->synchronize();
  tenant.compare();
  CHECK(tenant.exact);
  std::vector<Home> other = tenant.feeder.homes();
  other[0] = Home::cpu;
  CHECK_THROWS_CODE(tenant.feeder.set_homes(other, 2000), code::kInvalidArgument);
  tenant.feeder.set_homes(std::vector<Home>(6, Home::streamed), 1500);
  CHECK_EQ(device.left(), 4000u);
}

// A unit that a pass does not use (the head, where nobody wants logits) may still be on its way when it gives way: its
// block's next owner must not find it written, and its memory not be freed under the copy.
TEST(a_unit_gives_way_only_when_its_copy_has_come) {
  auto random = check::random(9);
  const Slabs mine(3, 2000, 2000, random), theirs(3, 2000, 2000, random);
  CpuStreamHooks hooks;
  hooks.copy_chunk = 200;
  hooks.before_copy = [] { std::this_thread::sleep_for(std::chrono::milliseconds(1)); };
  SmallDevice slow(hooks, 100000), fast({}, 100000);
  Arena arena;
  arena.set_limit(6000);
  FeederConfig config;
  config.homes.assign(3, Home::shared);
  config.unit_bytes.assign(3, 2000);
  config.ring_bytes = 2000;
  config.arena = &arena;
  const auto compute = fast.create_stream();
  Tenant first(slow, mine, config), second(fast, theirs, config);
  first.feeder.begin(Route::decode);
  for (int unit = 0; unit < 2; unit++) {
    first.feeder.acquire(*compute, unit);
    first.feeder.release(*compute, unit);
  }
  compute->synchronize();
  second.pass(*compute, Route::decode);
  compute->synchronize();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));  // as long as a copy that nobody waited for would take
  second.pass(*compute, Route::decode);
  compute->synchronize();
  second.compare();
  CHECK(second.exact);
  first.feeder.begin(Route::decode);
  arena.set_limit(0);  // frees blocks under copies, if they are not waited for
  CHECK_EQ(arena.bytes(), 0u);
}

// Staging memory that is refused in the middle of bringing a unit: nothing is lost, and the next try may succeed.
TEST(a_unit_that_cannot_be_brought_leaves_nothing_behind) {
  auto random = check::random(10);
  Slabs slabs(3, 2000, 2000, random);
  slabs.pin(0);  // none is: all copies need the window
  SmallDevice device({}, 100000);
  Arena arena;
  arena.set_limit(6000);
  FeederConfig config;
  config.homes = {Home::shared, Home::streamed, Home::shared};
  config.unit_bytes.assign(3, 2000);
  config.ring_bytes = 2000;
  config.arena = &arena;
  const auto compute = device.create_stream();
  {
    Tenant tenant(device, slabs, config);
    device.refuse_host_memory(true);
    for (int i = 0; i < 2; i++) {
      CHECK_THROWS_CODE(tenant.pass(*compute, Route::decode), code::kOutOfMemory);
      tenant.feeder.restart();
    }
    CHECK_EQ(tenant.feeder.shared_bytes(), 0u);
    device.refuse_host_memory(false);
    for (int i = 0; i < 2; i++) {
      tenant.pass(*compute, Route::decode);
      compute->synchronize();
    }
    tenant.compare();
    CHECK(tenant.exact);
    CHECK_EQ(tenant.feeder.shared_bytes(), 4000u);
    std::vector<Home> homes = config.homes;
    homes[1] = Home::resident;
    tenant.feeder.set_homes(homes, 2000);
    CHECK_EQ(tenant.feeder.resident_bytes(), 2000u);
  }
  CHECK_EQ(arena.bytes(), 0u);
  CHECK_EQ(device.left(), 100000u);
}

// Somebody else takes the memory that a smaller ring gave back: a request fails with OUT_OF_MEMORY, and when the
// memory is there again the model serves.
TEST(a_ring_without_room_comes_back) {
  auto random = check::random(11);
  const Slabs slabs(2, 4096, 4096, random);
  SmallDevice device({}, 4608 + 4096);
  FeederConfig config;
  config.homes = {Home::resident, Home::streamed};
  config.unit_bytes.assign(2, 4096);
  config.ring_bytes = 4096;
  const auto compute = device.create_stream();
  Tenant tenant(device, slabs, config);
  tenant.feeder.set_homes({Home::streamed, Home::streamed}, 100000);  // as much of it as there is
  CHECK(tenant.feeder.ring_bytes() >= 4096u);
  tenant.pass(*compute, Route::decode);
  compute->synchronize();
  device.refuse(true);
  CHECK_THROWS_CODE(tenant.feeder.set_homes({Home::streamed, Home::streamed}, 8000), code::kOutOfMemory);
  CHECK_THROWS_CODE(tenant.feeder.begin(Route::decode), code::kOutOfMemory);
  device.refuse(false);
  tenant.feeder.restart();
  tenant.pass(*compute, Route::decode);
  compute->synchronize();
  tenant.compare();
  CHECK(tenant.exact);
}

TEST(a_ring_smaller_than_a_unit_is_refused) {
  auto random = check::random(5);
  const Slabs slabs(2, 1000, 1000, random);
  const auto backend = create_cpu_backend(1);
  FeederConfig config;
  config.homes.assign(2, Home::streamed);
  config.unit_bytes = {1000, 1000};
  config.ring_bytes = 999;
  CHECK_THROWS_CODE(Feeder(*backend, slabs, config), code::kInvalidArgument);
}

// Slabs that cannot be pinned pass through a window: in pieces, by several threads, to the same bytes.
TEST(pageable_slabs_pass_through_the_staging_window) {
  auto random = check::random(6);
  CpuStreamHooks hooks;
  hooks.before_copy = random_pauses(random(), 200);
  const auto backend = create_cpu_backend(1, hooks);
  const auto stream = backend->create_stream();
  Stager stager(*backend, 3, 4096, 3);
  std::vector<std::vector<std::byte>> sources, copies;
  for (int i = 0; i < 40; i++) {
    std::vector<std::byte> bytes(1 + random() % 30000);
    for (auto& b : bytes) b = static_cast<std::byte>(random());
    copies.emplace_back(bytes.size());
    sources.push_back(std::move(bytes));
    stager.copy(*stream, copies.back().data(), sources.back().data(), sources.back().size());
  }
  stream->synchronize();
  for (size_t i = 0; i < sources.size(); i++) CHECK(sources[i] == copies[i]);
}

namespace {

// Counts what is pinned; refuses from the pin numbered `limit` on.
struct CountingPin final : Pin {
  explicit CountingPin(std::atomic<int>& pins) : count(pins) { count++; }
  ~CountingPin() override { count--; }
  std::atomic<int>& count;
};

}  // namespace

TEST(pinning_goes_as_far_as_the_system_allows) {
  std::atomic<int> pins{0}, asked{0};
  std::vector<std::byte> memory(5 * 4096);
  std::vector<std::span<std::byte>> parts;
  for (int i = 0; i < 5; i++) parts.push_back(std::span(memory).subspan(i * 4096, 4096));
  for (const int limit : {0, 3, 5}) {
    asked = 0;
    {
      Pinning pinning(
          [&](std::byte*, size_t) -> std::unique_ptr<Pin> {
            if (asked++ == limit) return nullptr;
            return std::make_unique<CountingPin>(pins);
          },
          parts);
      pinning.wait();
      CHECK_EQ(pins.load(), limit);
      CHECK_EQ(pinning.bytes(), static_cast<size_t>(limit) * 4096);
      CHECK_EQ(pinning.refused(), limit < 5);
      for (int i = 0; i < 5; i++) CHECK_EQ(pinning.pinned(i), i < limit);
    }
    CHECK_EQ(pins.load(), 0);
  }
}

// What Model::set_homes does: slots whose copies could not be enqueued are given back.
TEST(after_a_failed_prefetch_the_next_pass_works) {
  auto random = check::random(12);
  Slabs slabs(2, 2000, 2000, random);
  SmallDevice device({}, 100000);
  FeederConfig config;
  config.homes = {Home::resident, Home::streamed};
  config.unit_bytes.assign(2, 2000);
  config.ring_bytes = 2000;
  const auto compute = device.create_stream();
  slabs.pin(INT_MAX);
  Tenant tenant(device, slabs, config);
  slabs.pin(0);
  tenant.feeder.set_homes({Home::streamed, Home::streamed}, 2000);
  device.refuse_host_memory(true);
  CHECK_THROWS_CODE(tenant.feeder.prefetch(), code::kOutOfMemory);
  device.refuse_host_memory(false);
  tenant.pass(*compute, Route::decode);
  compute->synchronize();
  tenant.compare();
  CHECK(tenant.exact);
}

TEST(an_arena_larger_than_the_device_still_changes_hands) {
  auto random = check::random(13);
  Slabs a(4, 2000, 2000, random), b(4, 2000, 2000, random);
  SmallDevice device({}, 2000 + 2000 + 3 * 2000);  // two rings and three blocks
  Arena arena;
  arena.set_limit(8000);
  FeederConfig config;
  config.homes.assign(4, Home::shared);
  config.unit_bytes.assign(4, 2000);
  config.ring_bytes = 2000;
  config.arena = &arena;
  const auto compute = device.create_stream();
  Tenant first(device, a, config), second(device, b, config);
  const auto pass = [&](Tenant& tenant) {
    for (int i = 0; i < 3; i++) {
      tenant.pass(*compute, Route::decode);
      compute->synchronize();
    }
    return tenant.feeder.shared_bytes();
  };
  CHECK_EQ(pass(first), size_t{6000});
  CHECK(pass(second) > 0u);
  CHECK(first.feeder.shared_bytes() < 6000u);
}

TEST(a_unit_on_demand_is_there_in_part_and_comes_whole_with_prompts) {
  auto random = check::random();
  const Slabs slabs(2, 3000, 3000, random);
  SmallDevice device({}, 1 << 20);
  const auto compute = device.create_stream();
  FeederConfig config;
  config.unit_bytes = {3000, 3000};
  config.own_bytes = {700, 3000};
  config.homes = {Home::demand, Home::resident};
  config.ring_bytes = 3000;
  Feeder feeder(device, slabs, config);
  CHECK_EQ(feeder.resident_bytes(), size_t{3700});
  std::vector<std::byte> seen(3000);
  for (const bool prompt : {false, true, false}) {
    feeder.begin(prompt ? Route::prefill : Route::decode);
    CHECK_EQ(feeder.streams(0), prompt);
    CHECK_EQ(feeder.permanent(0), !prompt);
    CHECK(feeder.permanent(1));
    const size_t bytes = prompt ? 3000 : 700;
    compute->copy(seen.data(), feeder.acquire(*compute, 0), bytes);
    feeder.release(*compute, 0);
    compute->synchronize();
    CHECK(std::memcmp(seen.data(), slabs.slab(0), bytes) == 0);
  }
}
