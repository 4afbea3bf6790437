// Threads of several devices and models ask for a device's facts at once: each is asked for once, and seen whole.
// ThreadSanitizer runs this too (.ci/run, stage tsan), and finds facts that are written where others read them.
#include "cuda/plan/facts_per_device.h"

#include <thread>
#include <vector>

#include "check.h"

using namespace millrace::cuda;

namespace {

constexpr int kThreads = 8;
constexpr int kDevices = kFewDevices + 4;

// Large enough to be torn where it is not published by an address.
struct Facts {
  int values[64];
};

// Runs body(thread) on all of them at once.
template <class Body>
void at_once(const Body& body) {
  std::atomic<int> waiting{kThreads};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; t++) {
    threads.emplace_back([&, t] {
      waiting--;
      while (waiting.load() > 0) std::this_thread::yield();
      body(t);
    });
  }
  for (auto& thread : threads) thread.join();
}

}  // namespace

TEST(facts_of_a_device_are_asked_for_once_and_seen_whole_by_every_thread) {
  FactsPerDevice<Facts> facts;
  std::atomic<int> asked[kDevices] = {};
  const Facts* seen[kThreads][kDevices] = {};
  std::atomic<int> torn{0};
  at_once([&](int thread) {
    for (int round = 0; round < 20; round++) {
      for (int i = 0; i < kDevices; i++) {
        const int device = (i + thread * 7) % kDevices;
        const Facts* found = nullptr;
        const int status = facts.get(
            device,
            [&](Facts* wanted) {
              asked[device]++;
              for (int& value : wanted->values) value = 1000 + device;
              return 0;
            },
            &found);
        if (status != 0 || found == nullptr) {
          torn++;
          continue;
        }
        for (const int value : found->values) torn += value != 1000 + device;
        if (round > 0) torn += found != seen[thread][device];
        seen[thread][device] = found;
      }
    }
  });
  CHECK_EQ(torn.load(), 0);
  for (int device = 0; device < kDevices; device++) {
    CHECK_EQ(asked[device].load(), 1);
    for (int thread = 1; thread < kThreads; thread++) CHECK(seen[thread][device] == seen[0][device]);
  }
}

TEST(facts_that_could_not_be_had_are_asked_for_again) {
  FactsPerDevice<Facts> facts;
  for (const int device : {0, kFewDevices}) {
    const Facts* found = nullptr;
    const auto ask = [](int status) {
      return [status](Facts* wanted) {
        wanted->values[0] = status == 0 ? 7 : -1;
        return status;
      };
    };
    CHECK_EQ(facts.get(device, ask(3), &found), 3);
    CHECK(found == nullptr);
    CHECK_EQ(facts.get(device, ask(0), &found), 0);
    REQUIRE(found != nullptr);
    CHECK_EQ(found->values[0], 7);
    CHECK_EQ(facts.get(device, ask(5), &found), 0);  // is not asked any more
  }
}

TEST(what_is_done_once_is_done_before_anybody_goes_on) {
  DonePerDevice done;
  std::atomic<int> prepared[kFewDevices] = {};
  std::atomic<int> early{0};
  at_once([&](int thread) {
    for (int i = 0; i < kFewDevices; i++) {
      const int device = (i + thread * 5) % kFewDevices;
      early += done.run(device, [&] {
        prepared[device].fetch_add(1, std::memory_order_relaxed);
        return 0;
      }) != 0;
      early += prepared[device].load(std::memory_order_relaxed) == 0;
    }
  });
  CHECK_EQ(early.load(), 0);
  int runs = 0;
  CHECK_EQ(done.run(3, [&] { return ++runs; }), 0);  // done already
  CHECK_EQ(runs, 0);
  DonePerDevice failing;
  CHECK_EQ(failing.run(3, [&] { return ++runs; }), 1);
  CHECK_EQ(failing.run(3, [&] { return runs++, 0; }), 0);  // what failed is done again
  CHECK_EQ(failing.run(4, [&] { return runs++, 0; }), 0);  // of another device it is another's
  CHECK_EQ(failing.run(3, [&] { return runs++, 0; }), 0);
  CHECK_EQ(runs, 3);
}
