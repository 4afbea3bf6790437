// Units that stay in a packed file: compute finds their bytes whatever is read when, each wait is needed for that, and
// what goes wrong with the file is told to whoever needs it.
#include "stream/file_window.h"

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <thread>

#include "backend/cpu/cpu_backend.h"
#include "check.h"
#include "core/error.h"
#include "file_slabs.h"
#include "small_device.h"
#include "stream/feeder.h"

using namespace millrace;

namespace {

using Pause = std::function<void()>;

Pause pause_of(int us) {
  return [us] { std::this_thread::sleep_for(std::chrono::microseconds(us)); };
}

Pause random_pauses(uint64_t seed, int most_us) {
  auto state = std::make_shared<std::atomic<uint64_t>>(seed);
  return [state, most_us] {
    uint64_t x = state->fetch_add(0x9e3779b97f4a7c15ull, std::memory_order_relaxed);
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x ^= x >> 27;
    if (x % 3 == 0) std::this_thread::sleep_for(std::chrono::microseconds(x / 3 % most_us));
  };
}

std::vector<size_t> random_sizes(int units, size_t largest, std::mt19937_64& random) {
  std::vector<size_t> sizes;
  for (int unit = 0; unit < units; unit++) sizes.push_back(16 + random() % largest);
  return sizes;
}

FeederConfig config_of(const FileSlabs& slabs, std::vector<Home> homes) {
  FeederConfig config;
  size_t largest = 1;
  for (int unit = 0; unit < slabs.units(); unit++) {
    config.unit_bytes.push_back(slabs.bytes_of(unit).size());
    largest = std::max(largest, config.unit_bytes.back());
  }
  config.homes = std::move(homes);
  config.ring_bytes = 2 * largest;
  config.window_bytes = 2 * (largest + packed::kPage);
  config.poison = true;
  return config;
}

// "Computes" by copying what it finds at each unit's address; compares once all has run.
class Passes {
 public:
  Passes(const FileSlabs& slabs, Feeder& feeder, Stream& compute) : slabs_(slabs), feeder_(feeder), compute_(compute) {}

  void run() {
    feeder_.begin(Route::decode);
    for (int unit = 0; unit < slabs_.units(); unit++) {
      const std::byte* address = feeder_.acquire(compute_, unit);
      seen_.push_back({unit, std::vector<std::byte>(slabs_.bytes_of(unit).size())});
      compute_.copy(seen_.back().bytes.data(), address, seen_.back().bytes.size());
      feeder_.release(compute_, unit);
    }
  }
  bool exact() {
    compute_.synchronize();
    bool exact = true;
    for (const Seen& one : seen_) exact = exact && one.bytes == slabs_.bytes_of(one.unit);
    seen_.clear();
    return exact;
  }

 private:
  struct Seen {
    int unit;
    std::vector<std::byte> bytes;
  };
  const FileSlabs& slabs_;
  Feeder& feeder_;
  Stream& compute_;
  std::deque<Seen> seen_;
};

// What a pass fails with; empty: nothing.
std::string failure_of(Passes& passes, std::string* message = nullptr) {
  try {
    passes.run();
  } catch (const Error& error) {
    if (message != nullptr) *message = error.what();
    return error.code();
  }
  return {};
}

// A device that has memory of its own, or the twin.
std::unique_ptr<Backend> device(bool own_memory, CpuStreamHooks hooks = {}) {
  if (own_memory) return std::make_unique<SmallDevice>(std::move(hooks), size_t{1} << 30);
  return create_cpu_backend(1, std::move(hooks));
}

}  // namespace

TEST(every_unit_of_the_file_arrives_whatever_the_sizes_homes_and_delays) {
  auto random = check::random();
  for (int round = 0; round < 40; round++) {
    const bool large = round % 20 == 0;  // units of several pieces
    const int units = 2 + static_cast<int>(random() % (large ? 2 : 8));
    std::vector<bool> in_file;
    std::vector<Home> homes, moved;
    for (int unit = 0; unit < units; unit++) {
      in_file.push_back(random() % 3 != 0);
      homes.push_back(random() % 2 == 0 ? Home::resident : Home::streamed);
      moved.push_back(random() % 2 == 0 ? Home::resident : Home::streamed);
    }
    const size_t largest = large ? 2 * kPackedPiece + 5000 : 30000;
    const FileSlabs slabs(random_sizes(units, largest, random), in_file, random);
    CpuStreamHooks hooks;
    hooks.copy_chunk = 4096;
    hooks.before_copy = random_pauses(random(), 60);
    const auto backend = device(random() % 2 == 0, hooks);
    const auto compute = backend->create_stream();
    FeederConfig config = config_of(slabs, homes);
    config.window_bytes = random() % 2 == 0 ? 0 : config.window_bytes;  // as small as can be
    config.window_hooks.before_read = random_pauses(random(), 100);
    Feeder feeder(*backend, slabs, config);
    feeder.prefetch();
    Passes passes(slabs, feeder, *compute);
    const int count = 1 + static_cast<int>(random() % 4);
    for (int pass = 0; pass < count; pass++) passes.run();
    CHECK(passes.exact());
    feeder.set_homes(moved, config.ring_bytes);
    for (int pass = 0; pass < count; pass++) passes.run();
    CHECK(passes.exact());
    if (random() % 2 == 0) feeder.restart();
    passes.run();
    CHECK(passes.exact());
  }
}

TEST(what_passes_read_is_counted) {
  auto random = check::random(1);
  const FileSlabs slabs({5000, 6000, 7000}, {true, false, true}, random);
  const auto backend = create_cpu_backend(1);
  const auto compute = backend->create_stream();
  Feeder feeder(*backend, slabs, config_of(slabs, std::vector(3, Home::resident)));
  Passes passes(slabs, feeder, *compute);
  for (int pass = 0; pass < 3; pass++) passes.run();
  CHECK(passes.exact());
  CHECK_EQ(feeder.counters().file_bytes, 3u * 12000u);
  CHECK_EQ(feeder.counters().copied_bytes, 0u);
  CHECK(feeder.reads_file());
}

TEST(what_is_brought_to_a_device_for_good_is_read_once) {
  auto random = check::random(2);
  const FileSlabs slabs({5000, 6000, 7000}, {true, true, true}, random);
  SmallDevice backend({}, 1 << 20);
  const auto compute = backend.create_stream();
  Feeder feeder(backend, slabs, config_of(slabs, std::vector(3, Home::resident)));
  Passes passes(slabs, feeder, *compute);
  for (int pass = 0; pass < 3; pass++) passes.run();
  CHECK(passes.exact());
  CHECK_EQ(feeder.counters().file_bytes, 18000u);
  CHECK(!feeder.reads_file());
}

namespace {

// A wait left out is a race: it must show within a few tries, each slower than the one before.
template <typename Differs>
bool shows(Differs differs) {
  for (int us = 1000; us <= 64000; us *= 2) {
    if (differs(pause_of(us))) return true;
  }
  return false;
}

}  // namespace

// Slow reads: who does not wait for them finds what was in the window before.
TEST(every_wait_for_a_read_is_needed) {
  if (kRaceDetector) SKIP("the race that this test makes on purpose is what ThreadSanitizer reports");
  auto random = check::random(3);
  for (const Home home : {Home::resident, Home::streamed}) {
    const FileSlabs slabs({6000, 5000, 7000, 4500}, std::vector(4, true), random);
    const auto differs = [&](int64_t skipped, Pause pause) {
      const auto backend = create_cpu_backend(1);
      const auto compute = backend->create_stream();
      FeederConfig config = config_of(slabs, std::vector(4, home));
      config.window_hooks.skip_read_wait = skipped;
      config.window_hooks.before_read = std::move(pause);
      Feeder feeder(*backend, slabs, config);
      Passes passes(slabs, feeder, *compute);
      // Of two units that two threads read at once the second may need no wait: passes enough for four that do.
      for (int pass = 0; pass < 4; pass++) passes.run();
      return !passes.exact();
    };
    CHECK(!differs(-1, pause_of(1000)));
    for (int64_t wait = 0; wait < 4; wait++) {
      CHECK(shows([&](Pause pause) { return differs(wait, std::move(pause)); }));
    }
  }
}

// Slow use: a read that does not wait for it overwrites what is still to be used.
TEST(every_wait_for_memory_of_the_window_is_needed) {
  if (kRaceDetector) SKIP("the race that this test makes on purpose is what ThreadSanitizer reports");
  auto random = check::random(4);
  for (const Home home : {Home::resident, Home::streamed}) {
    const FileSlabs slabs({8000, 7000, 7500, 8100}, std::vector(4, true), random);
    const auto differs = [&](int64_t skipped, Pause pause) {
      CpuStreamHooks slow;
      slow.before_copy = std::move(pause);
      const auto backend = create_cpu_backend(1, slow);
      const auto compute = backend->create_stream();
      FeederConfig config = config_of(slabs, std::vector(4, home));
      config.ring_bytes = 40000;  // larger than all, so that the window alone is short of room
      config.window_bytes = 2 * 8192;
      config.window_hooks.skip_free_wait = skipped;
      Feeder feeder(*backend, slabs, config);
      Passes passes(slabs, feeder, *compute);
      passes.run();
      passes.run();
      return !passes.exact();
    };
    CHECK(!differs(-1, pause_of(1000)));
    for (int64_t wait = 0; wait < 6; wait++) {
      CHECK(shows([&](Pause pause) { return differs(wait, std::move(pause)); }));
    }
  }
}

// The host waits for the unit that compute is to have next, and for no copy ahead of it.
TEST(copies_ahead_are_enqueued_once_they_are_read) {
  auto random = check::random(5);
  const FileSlabs slabs({6000, 6000, 6000, 6000}, {false, true, true, true}, random);
  std::atomic<bool> go{false};
  FeederConfig config = config_of(slabs, std::vector(4, Home::streamed));
  config.ring_bytes = 30000;
  config.window_hooks.before_read = [&] {
    while (!go.load()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  };
  const auto backend = create_cpu_backend(1);
  const auto compute = backend->create_stream();
  Feeder feeder(*backend, slabs, config);
  feeder.prefetch();
  feeder.begin(Route::decode);
  std::vector<std::byte> out(6000);
  compute->copy(out.data(), feeder.acquire(*compute, 0), 6000);  // would hang here if it waited for the others
  feeder.release(*compute, 0);
  compute->synchronize();
  CHECK(out == slabs.bytes_of(0));
  go.store(true);
  for (int unit = 1; unit < 4; unit++) {
    compute->copy(out.data(), feeder.acquire(*compute, unit), 6000);
    feeder.release(*compute, unit);
    compute->synchronize();
    CHECK(out == slabs.bytes_of(unit));
  }
}

TEST(a_read_that_fails_fails_the_pass_that_needs_it_and_is_tried_again) {
  auto random = check::random(6);
  for (const bool own_memory : {false, true}) {
    FileSlabs slabs(random_sizes(5, 20000, random), {true, false, true, true, false}, random);
    std::atomic<bool> broken{false};
    slabs.units_in_file().replace_read([&](int fd, void* to, size_t bytes, off_t at) -> ssize_t {
      if (!broken) return ::pread(fd, to, bytes, at);
      errno = EIO;
      return -1;
    });
    const auto backend = device(own_memory);
    const auto compute = backend->create_stream();
    Feeder feeder(*backend, slabs, config_of(slabs, std::vector(5, own_memory ? Home::streamed : Home::resident)));
    Passes passes(slabs, feeder, *compute);
    passes.run();
    CHECK(passes.exact());
    broken = true;
    std::string message;
    std::string code;
    for (int pass = 0; pass < 3 && code.empty(); pass++) code = failure_of(passes, &message);
    CHECK_EQ(code, "READ_FAILED");
    CHECK(message.find("Input/output error") != std::string::npos);
    CHECK(message.find(slabs.path()) != std::string::npos);
    compute->synchronize();
    feeder.restart();
    CHECK_EQ(failure_of(passes), "READ_FAILED");
    compute->synchronize();
    feeder.restart();
    broken = false;
    // What was begun before fails still.
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    CHECK_EQ(failure_of(passes), "");
    CHECK(std::filesystem::exists(slabs.path()));  // what cannot be read now is not what was changed
    passes.exact();                                // parts of the failed passes among them
    passes.run();
    CHECK(passes.exact());
  }
}

TEST(a_failure_ahead_that_has_passed_by_is_nobodys) {
  auto random = check::random(7);
  FileSlabs slabs({9000, 9000}, {true, true}, random);
  std::atomic<int> failures{3};
  slabs.units_in_file().replace_read([&](int fd, void* to, size_t bytes, off_t at) -> ssize_t {
    if (failures-- <= 0) return ::pread(fd, to, bytes, at);
    errno = EIO;
    return -1;
  });
  const auto backend = create_cpu_backend(1);
  const auto compute = backend->create_stream();
  Feeder feeder(*backend, slabs, config_of(slabs, std::vector(2, Home::resident)));
  while (failures > 1) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  failures = 0;
  Passes passes(slabs, feeder, *compute);
  passes.run();
  CHECK(passes.exact());
}

TEST(a_file_that_is_cut_short_or_written_to_is_noticed_and_removed) {
  auto random = check::random(8);
  for (const bool cut : {true, false}) {
    FileSlabs slabs({9000, 8000, 7000}, {true, true, true}, random);
    const auto backend = create_cpu_backend(1);
    const auto compute = backend->create_stream();
    FeederConfig config = config_of(slabs, std::vector(3, Home::resident));
    config.window_bytes = 0;  // one unit at a time: the next pass has to read
    Feeder feeder(*backend, slabs, config);
    Passes passes(slabs, feeder, *compute);
    passes.run();
    CHECK(passes.exact());
    if (cut) {
      std::filesystem::resize_file(slabs.path(), slabs.offset(1));
    } else {
      std::fstream file(slabs.path(), std::ios::in | std::ios::out | std::ios::binary);
      file.seekp(static_cast<std::streamoff>(slabs.offset(1) + 4000));
      file.put('\0');
    }
    std::string message;
    CHECK_EQ(failure_of(passes, &message), "READ_FAILED");
    CHECK(message.find(cut ? "it was cut short" : "have changed") != std::string::npos);
    CHECK_EQ(std::filesystem::exists(slabs.path()), cut);  // its size tells the next load of the other
    compute->synchronize();
  }
}

TEST(a_file_that_is_replaced_or_removed_is_read_on_as_it_was) {
  auto random = check::random(9);
  FileSlabs slabs({9000, 8000, 7000}, {true, true, true}, random);
  const auto backend = create_cpu_backend(1);
  const auto compute = backend->create_stream();
  Feeder feeder(*backend, slabs, config_of(slabs, std::vector(3, Home::resident)));
  Passes passes(slabs, feeder, *compute);
  passes.run();
  testing::write_file(slabs.path() + ".other", "another file");
  std::filesystem::rename(slabs.path() + ".other", slabs.path());
  passes.run();
  std::filesystem::remove(slabs.path());
  passes.run();
  CHECK(passes.exact());
}

TEST(file_systems_without_direct_reads_are_read_otherwise) {
  auto random = check::random(10);
  FileSlabs slabs({9000, 8000}, {true, true}, random);
  std::atomic<int> refused{0};
  slabs.units_in_file().replace_read([&](int fd, void* to, size_t bytes, off_t at) -> ssize_t {
    if ((::fcntl(fd, F_GETFL) & O_DIRECT) == 0) return ::pread(fd, to, bytes, at);
    refused++;
    errno = EINVAL;
    return -1;
  });
  const bool direct = slabs.units_in_file().direct();
  const auto backend = create_cpu_backend(1);
  const auto compute = backend->create_stream();
  Feeder feeder(*backend, slabs, config_of(slabs, std::vector(2, Home::resident)));
  Passes passes(slabs, feeder, *compute);
  passes.run();
  CHECK(passes.exact());
  CHECK(!slabs.units_in_file().direct());
  CHECK_EQ(refused > 0, direct);
}

TEST(closing_ends_with_the_reads_under_way) {
  auto random = check::random(11);
  const FileSlabs slabs({9000, 8000, 7000}, {true, true, true}, random);
  const auto backend = create_cpu_backend(1);
  std::atomic<int> reads{0};
  FeederConfig config = config_of(slabs, std::vector(3, Home::streamed));
  config.window_hooks.before_read = [&] {
    reads++;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  };
  for (int round = 0; round < 5; round++) {
    const int before = reads;
    Feeder feeder(*backend, slabs, config);
    feeder.prefetch();
    while (reads == before) std::this_thread::yield();
  }
}

TEST(an_order_that_was_not_expected_is_read_all_the_same) {
  auto random = check::random(12);
  const FileSlabs slabs({5000, 9000, 4000, 6000}, std::vector(4, true), random);
  const auto backend = create_cpu_backend(1);
  const auto stream = backend->create_stream();
  WindowHooks hooks;
  hooks.before_read = random_pauses(random(), 200);
  FileWindow window(*backend, slabs.file(), {0, 1, 2, 3}, 30000, hooks);
  std::deque<std::pair<int, std::vector<std::byte>>> seen;
  for (int i = 0; i < 200; i++) {
    if (random() % 4 == 0)
      window.expect({static_cast<int>(random() % 4), static_cast<int>(random() % 4)}, {0, 1, 2, 3});
    if (random() % 50 == 0) {
      stream->synchronize();
      window.reset();
    }
    const int unit = static_cast<int>(random() % 4);
    auto& [_, bytes] = seen.emplace_back(unit, slabs.bytes_of(unit).size());
    stream->copy(bytes.data(), window.take(unit), bytes.size());
    window.release(*stream);
  }
  stream->synchronize();
  for (const auto& [unit, bytes] : seen) CHECK(bytes == slabs.bytes_of(unit));
}
