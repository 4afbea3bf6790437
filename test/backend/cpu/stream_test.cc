// Streams and events of the CPU twin have CUDA's meaning.
#include "backend/cpu/stream.h"

#include <atomic>
#include <chrono>
#include <memory>
#include <new>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "core/error.h"

using namespace millrace;

namespace {

CpuStream& cpu(const std::unique_ptr<Stream>& stream) {
  return static_cast<CpuStream&>(*stream);
}

// Holds a stream until it is opened.
class Gate {
 public:
  void hold(const std::unique_ptr<Stream>& stream) {
    cpu(stream).enqueue([this] { open_.wait(false); });
  }
  void open() {
    open_.store(true);
    open_.notify_all();
  }

 private:
  std::atomic<bool> open_{false};
};

}  // namespace

TEST(operations_run_in_the_order_they_were_enqueued) {
  const auto backend = create_cpu_backend(1);
  const auto stream = backend->create_stream();
  std::vector<int> order;
  for (int i = 0; i < 1000; i++) cpu(stream).enqueue([&order, i] { order.push_back(i); });
  stream->synchronize();
  std::vector<int> expected(1000);
  std::iota(expected.begin(), expected.end(), 0);
  CHECK(order == expected);
}

TEST(enqueueing_never_waits) {
  const auto backend = create_cpu_backend(1);
  const auto stream = backend->create_stream();
  const auto event = backend->create_event();
  Gate gate;
  gate.hold(stream);
  std::vector<std::byte> a(64, std::byte{1}), b(64);
  stream->copy(b.data(), a.data(), a.size());
  stream->record(*event);
  CHECK(!event->done());
  CHECK(b[0] == std::byte{0});
  gate.open();
  event->synchronize();
  CHECK(event->done());
  CHECK(b == a);
  stream->synchronize();
}

TEST(copies_of_every_length_are_whole_and_chunked) {
  std::atomic<int> chunks{0};
  CpuStreamHooks hooks;
  hooks.before_copy = [&] { chunks++; };
  hooks.copy_chunk = 100;
  const auto backend = create_cpu_backend(1, hooks);
  const auto stream = backend->create_stream();
  for (size_t bytes : {0, 1, 99, 100, 101, 1000, 12345}) {
    std::vector<std::byte> source(bytes + 1), destination(bytes + 1, std::byte{0xee});
    for (size_t i = 0; i < bytes; i++) source[i] = static_cast<std::byte>(i * 7 + i / 256);
    chunks = 0;
    stream->copy(destination.data(), source.data(), bytes);
    stream->synchronize();
    CHECK(std::equal(source.begin(), source.begin() + bytes, destination.begin()));
    CHECK(destination[bytes] == std::byte{0xee});
    CHECK_EQ(chunks.load(), static_cast<int>((bytes + 99) / 100));
  }
}

TEST(fill_writes_its_range_alone) {
  const auto backend = create_cpu_backend(1);
  const auto stream = backend->create_stream();
  std::vector<std::byte> memory(10, std::byte{1});
  stream->fill(memory.data() + 2, 0xff, 5);
  stream->synchronize();
  for (size_t i = 0; i < memory.size(); i++) CHECK(memory[i] == (i >= 2 && i < 7 ? std::byte{0xff} : std::byte{1}));
}

TEST(an_event_never_recorded_is_done) {
  const auto backend = create_cpu_backend(1);
  const auto stream = backend->create_stream();
  const auto event = backend->create_event();
  CHECK(event->done());
  event->synchronize();
  stream->wait(*event);
  stream->synchronize();
}

TEST(a_wait_holds_the_stream_until_the_record_is_reached) {
  const auto backend = create_cpu_backend(1);
  const auto producer = backend->create_stream(), consumer = backend->create_stream();
  const auto event = backend->create_event();
  Gate gate;
  int value = 0, seen = -1;
  gate.hold(producer);
  cpu(producer).enqueue([&] { value = 7; });
  producer->record(*event);
  consumer->wait(*event);
  cpu(consumer).enqueue([&] { seen = value; });
  std::this_thread::sleep_for(std::chrono::milliseconds(2));  // gives a wrong consumer time to run ahead
  gate.open();
  consumer->synchronize();
  CHECK_EQ(seen, 7);
}

TEST(a_wait_stands_for_the_record_enqueued_last_before_it) {
  const auto backend = create_cpu_backend(1);
  const auto first = backend->create_stream(), second = backend->create_stream(), waiting = backend->create_stream();
  const auto event = backend->create_event();
  Gate gate;
  // A later record on a stream that is held must not hold an earlier wait.
  first->record(*event);
  waiting->wait(*event);
  gate.hold(second);
  second->record(*event);
  waiting->synchronize();
  CHECK(!event->done());
  // A later record on a free stream does not release a wait for the earlier one on the held stream.
  std::atomic<bool> passed{false};
  waiting->wait(*event);
  cpu(waiting).enqueue([&] { passed = true; });
  first->record(*event);
  event->synchronize();
  CHECK(event->done());
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
  CHECK(!passed);
  gate.open();
  waiting->synchronize();
  CHECK(passed);
}

TEST(an_event_may_go_before_its_waits_have_passed) {
  const auto backend = create_cpu_backend(1);
  const auto producer = backend->create_stream(), consumer = backend->create_stream();
  Gate gate;
  gate.hold(producer);
  auto event = backend->create_event();
  producer->record(*event);
  consumer->wait(*event);
  event.reset();
  gate.open();
  consumer->synchronize();
}

TEST(a_destroyed_stream_has_run_all) {
  const auto backend = create_cpu_backend(1);
  std::atomic<int> runs{0};
  {
    const auto stream = backend->create_stream();
    for (int i = 0; i < 100; i++) cpu(stream).enqueue([&] { runs++; });
  }
  CHECK_EQ(runs.load(), 100);
}

TEST(synchronize_covers_what_was_enqueued_alone) {
  const auto backend = create_cpu_backend(1);
  const auto stream = backend->create_stream();
  stream->synchronize();  // of a stream that never ran
  Gate gate;
  int value = 0;
  std::atomic<bool> returned{false};
  cpu(stream).enqueue([&] { value = 1; });
  std::atomic<bool> started{false};
  cpu(stream).enqueue([&] {
    started = true;
    started.notify_all();
  });
  started.wait(false);
  CHECK_EQ(value, 1);
  gate.hold(stream);
  std::thread waiter([&] {
    stream->synchronize();
    returned = true;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
  CHECK(!returned);
  gate.open();
  waiter.join();
  CHECK(returned);
}

// A ring of slots between a copying and a computing stream, as the feeder uses them, with delays at random.
TEST(ready_and_free_events_carry_data_through_a_ring) {
  std::atomic<uint64_t> state{check::seed()};
  CpuStreamHooks hooks;
  hooks.copy_chunk = 256;
  hooks.before_copy = [&] {
    const uint64_t value = state.fetch_add(0x9e3779b97f4a7c15ull) * 0xbf58476d1ce4e5b9ull;
    if (value >> 62 == 0) std::this_thread::sleep_for(std::chrono::microseconds(value >> 32 & 63));
  };
  const auto backend = create_cpu_backend(1, hooks);
  const auto copies = backend->create_stream(), compute = backend->create_stream();
  constexpr int kSlots = 3, kUnits = 500;
  constexpr size_t kBytes = 1024;
  std::vector<std::vector<std::byte>> sources;
  for (int i = 0; i < 7; i++) sources.emplace_back(kBytes, static_cast<std::byte>(i + 1));
  std::vector<std::vector<std::byte>> slots(kSlots, std::vector<std::byte>(kBytes));
  std::vector<std::unique_ptr<Event>> ready, free;
  for (int i = 0; i < kSlots; i++) {
    ready.push_back(backend->create_event());
    free.push_back(backend->create_event());
  }
  int wrong = 0;
  for (int unit = 0; unit < kUnits; unit++) {
    const int slot = unit % kSlots;
    copies->wait(*free[slot]);
    copies->copy(slots[slot].data(), sources[unit % 7].data(), kBytes);
    copies->record(*ready[slot]);
    compute->wait(*ready[slot]);
    cpu(compute).enqueue([&, slot, unit] {
      for (std::byte b : slots[slot]) wrong += b != static_cast<std::byte>(unit % 7 + 1);
    });
    compute->fill(slots[slot].data(), 0xff, kBytes);
    compute->record(*free[slot]);
  }
  compute->synchronize();
  copies->synchronize();
  CHECK_EQ(wrong, 0);
}

namespace {

template <typename Body>
std::string code_of(Body&& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.code();
  }
  return "";
}

}  // namespace

TEST(what_an_operation_throws_is_told_by_synchronize) {
  const auto backend = create_cpu_backend(1);
  const auto stream = backend->create_stream();
  std::atomic<int> ran{0}, instead{0}, always{0};
  cpu(stream).enqueue([] { throw std::bad_alloc(); });
  cpu(stream).enqueue([&] { ran++; });
  cpu(stream).enqueue([&] { ran++; }, [&] { instead++; });
  cpu(stream).enqueue_always([&] { always++; });
  CHECK_EQ(code_of([&] { stream->synchronize(); }), std::string(code::kOutOfMemory));
  CHECK_EQ(ran.load(), 0);
  CHECK_EQ(instead.load(), 1);
  CHECK_EQ(always.load(), 1);
  // Told once; then the stream runs again.
  stream->synchronize();
  cpu(stream).enqueue([&] { ran++; }, [&] { instead++; });
  stream->synchronize();
  CHECK_EQ(ran.load(), 1);
  CHECK_EQ(instead.load(), 1);
  // The first of several; an Error as it is; anything else is a fault of ours.
  cpu(stream).enqueue([] { throw Error(code::kInvalidArgument, "the first", "none"); });
  cpu(stream).enqueue([] { throw std::bad_alloc(); });
  CHECK_EQ(code_of([&] { stream->synchronize(); }), std::string(code::kInvalidArgument));
  cpu(stream).enqueue([] { throw std::runtime_error("something else"); }, [&] { instead++; });
  CHECK_EQ(code_of([&] { stream->synchronize(); }), std::string(code::kInternal));
  CHECK_EQ(instead.load(), 2);
  cpu(stream).enqueue([] { throw 7; });
  CHECK_EQ(code_of([&] { stream->synchronize(); }), std::string(code::kInternal));
}

TEST(a_copy_that_fails_is_no_end_of_the_process) {
  std::atomic<bool> fails{true};
  CpuStreamHooks hooks;
  hooks.before_copy = [&] {
    if (fails) throw std::bad_alloc();
  };
  const auto backend = create_cpu_backend(1, hooks);
  const auto stream = backend->create_stream();
  std::vector<std::byte> from(100, std::byte{7}), to(100);
  stream->copy(to.data(), from.data(), 100);
  stream->fill(to.data(), 0xff, 100);
  CHECK_EQ(code_of([&] { stream->synchronize(); }), std::string(code::kOutOfMemory));
  CHECK(to[0] == std::byte{0});
  fails = false;
  stream->copy(to.data(), from.data(), 100);
  stream->synchronize();
  CHECK(to == from);
}

// Events are recorded all the same, so nobody hangs; whoever waits for one of a stream that has failed has failed too,
// until the failure is told.
TEST(a_failure_travels_with_events) {
  const auto backend = create_cpu_backend(1);
  const auto first = backend->create_stream(), second = backend->create_stream(), third = backend->create_stream();
  const auto before = backend->create_event(), event = backend->create_event(), end = backend->create_event();
  std::atomic<int> ran{0};
  first->record(*before);
  cpu(first).enqueue([] { throw std::bad_alloc(); });
  first->record(*event);
  second->wait(*event);
  cpu(second).enqueue([&] { ran++; });
  second->record(*end);
  third->wait(*before);
  cpu(third).enqueue([&] { ran += 10; });
  third->synchronize();  // hears nothing of it
  CHECK_EQ(ran.load(), 10);
  before->synchronize();
  CHECK_EQ(code_of([&] { end->synchronize(); }), std::string(code::kOutOfMemory));
  CHECK(end->done());
  third->wait(*end);  // reached long ago
  CHECK_EQ(code_of([&] { third->synchronize(); }), std::string(code::kOutOfMemory));
  // Told: old events are of no more harm, though the streams that have failed tell it too.
  end->synchronize();
  third->wait(*end);
  cpu(third).enqueue([&] { ran += 100; });
  third->synchronize();
  CHECK_EQ(ran.load(), 110);
  CHECK_EQ(code_of([&] { first->synchronize(); }), std::string(code::kOutOfMemory));
  CHECK_EQ(code_of([&] { second->synchronize(); }), std::string(code::kOutOfMemory));
  second->synchronize();
  CHECK_EQ(ran.load(), 110);
}

TEST(memory_is_zero_and_writable) {
  const auto backend = create_cpu_backend(1);
  const auto memory = backend->allocate(100000, "a test");
  REQUIRE(memory->size() >= 100000);
  CHECK(memory->data()[99999] == std::byte{0});
  memory->data()[99999] = std::byte{1};
  CHECK_THROWS_CODE(backend->allocate(size_t{1} << 62, "a test"), "OUT_OF_MEMORY");
}

TEST(a_backend_without_threads_is_refused) {
  CHECK_THROWS_CODE(create_cpu_backend(0), "INVALID_ARGUMENT");
}
