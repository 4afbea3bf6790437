// The fork-join pool: every index once, results visible, workers that come late or sleep are no danger.
#include "core/thread_pool.h"

#include <atomic>
#include <chrono>
#include <memory>
#include <numeric>
#include <thread>
#include <vector>

#include "check.h"
#include "core/error.h"

using namespace millrace;

TEST(every_index_runs_once_and_its_writes_are_visible) {
  auto random = check::random();
  for (const int threads : {1, 2, 3, 4, 8}) {
    ThreadPool pool(threads);
    CHECK_EQ(pool.threads(), threads);
    for (int loop = 0; loop < 3000; loop++) {
      const int64_t count = static_cast<int64_t>(random() % (loop % 50 == 0 ? 3000 : 20));
      std::vector<int> seen(count, 0);  // plain ints: a race here is one for ThreadSanitizer
      pool.parallel_for(count, [&](int64_t i, int) { seen[i] += static_cast<int>(i) + 1; });
      bool all = true;
      for (int64_t i = 0; i < count; i++) all = all && seen[i] == i + 1;
      CHECK(all);
    }
  }
}

TEST(thread_numbers_are_in_range_and_exclusive) {
  ThreadPool pool(4);
  std::vector<std::atomic<int>> inside(4);
  std::atomic<bool> fine{true};
  for (int loop = 0; loop < 500; loop++) {
    pool.parallel_for(64, [&](int64_t, int thread) {
      if (thread < 0 || thread >= 4 || inside[thread].fetch_add(1) != 0) fine = false;
      for (int i = 0; i < 50; i++) std::atomic_signal_fence(std::memory_order_seq_cst);
      inside[thread].fetch_sub(1);
    });
  }
  CHECK(fine.load());
}

TEST(loops_read_what_earlier_loops_wrote) {
  ThreadPool pool(4);
  std::vector<int64_t> a(257, 1), b(257, 0);
  for (int loop = 0; loop < 2000; loop++) {
    pool.parallel_for(257, [&](int64_t i, int) { b[i] = a[(i + 1) % 257] + 1; });
    std::swap(a, b);
  }
  CHECK_EQ(std::accumulate(a.begin(), a.end(), int64_t{0}), int64_t{257} * 2001);
}

TEST(workers_help_while_spinning_and_after_sleeping) {
  // Both indices must be inside at once, or this never ends: it takes a worker, awake or woken.
  ThreadPool pool(2);
  for (const int pause_us : {0, 20, 200, 5000}) {
    for (int loop = 0; loop < 20; loop++) {
      std::this_thread::sleep_for(std::chrono::microseconds(pause_us));
      std::atomic<int> inside{0};
      std::atomic<bool> together{true};
      pool.parallel_for(2, [&](int64_t, int) {
        inside.fetch_add(1);
        const auto start = std::chrono::steady_clock::now();
        while (inside.load() < 2) {
          std::this_thread::yield();
          if (std::chrono::steady_clock::now() - start > std::chrono::seconds(20)) {
            together = false;
            break;
          }
        }
      });
      CHECK(together.load());
    }
  }
}

TEST(the_caller_sleeps_for_a_long_last_index) {
  ThreadPool pool(3);
  for (int loop = 0; loop < 10; loop++) {
    std::vector<int> done(3, 0);
    pool.parallel_for(3, [&](int64_t i, int thread) {
      // Whichever thread is not the caller is slow: the caller runs out of indices and has to wait.
      if (thread != 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
      done[i] = 1;
    });
    CHECK_EQ(done[0] + done[1] + done[2], 3);
  }
}

TEST(a_body_on_the_stack_is_not_touched_after_its_loop) {
  // Workers that come late must find the loop closed: the captured pointer is poisoned as soon as the loop returns.
  ThreadPool pool(4);
  std::atomic<int> wrong{0};
  for (int loop = 0; loop < 5000; loop++) {
    auto value = std::make_unique<std::atomic<int>>(1);
    pool.parallel_for(1 + loop % 4, [&](int64_t, int) {
      if (value->load() != 1) wrong++;
    });
    value->store(0);
  }
  CHECK_EQ(wrong.load(), 0);
}

TEST(more_threads_than_cores) {
  ThreadPool pool(24);
  int64_t expected = 0;
  std::atomic<int64_t> sum{0};
  for (int loop = 0; loop < 300; loop++) {
    pool.parallel_for(loop, [&](int64_t i, int) { sum += i; });
    expected += static_cast<int64_t>(loop) * (loop - 1) / 2;
  }
  CHECK_EQ(sum.load(), expected);
}

TEST(pools_come_and_go) {
  for (int i = 0; i < 200; i++) {
    ThreadPool pool(1 + i % 5);
    if (i % 3 == 0) continue;  // destroyed without a loop
    std::atomic<int> ran{0};
    pool.parallel_for(i % 7, [&](int64_t, int) { ran++; });
    CHECK_EQ(ran.load(), i % 7);
  }
}

TEST(several_pools_side_by_side) {
  std::vector<std::thread> callers;
  std::atomic<int64_t> sum{0};
  for (int c = 0; c < 3; c++) {
    callers.emplace_back([&] {
      ThreadPool pool(3);
      for (int loop = 0; loop < 500; loop++) pool.parallel_for(10, [&](int64_t i, int) { sum += i; });
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK_EQ(sum.load(), 3 * 500 * 45);
}

TEST(nested_loops_are_refused) {
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    std::atomic<int> refused{0};
    pool.parallel_for(4, [&](int64_t, int) {
      try {
        pool.parallel_for(2, [](int64_t, int) {});
      } catch (const Error& error) {
        if (std::string(error.code()) == code::kInternal) refused++;
      }
    });
    CHECK_EQ(refused.load(), 4);
    int ran = 0;
    pool.parallel_for(1, [&](int64_t, int) { ran++; });  // and the pool still works
    CHECK_EQ(ran, 1);
  }
}

// What a body throws, on whichever thread, comes to the caller, and the pool goes on.
TEST(what_a_body_throws_comes_to_the_caller) {
  for (const int threads : {1, 2, 4}) {
    ThreadPool pool(threads);
    for (int round = 0; round < 200; round++) {
      const int64_t thrower = round % 50;
      std::atomic<int> after{0};
      std::string told;
      try {
        pool.parallel_for(50, [&](int64_t i, int) {
          if (i == thrower) throw std::runtime_error("index " + std::to_string(i));
          after++;
        });
      } catch (const std::runtime_error& error) {
        told = error.what();
      }
      CHECK_EQ(told, "index " + std::to_string(thrower));
      CHECK(after.load() < 50);
      std::atomic<int> ran{0};
      pool.parallel_for(50, [&](int64_t, int) { ran++; });
      CHECK_EQ(ran.load(), 50);
    }
    // Thrown by all of them at once: one of them is told.
    bool thrown = false;
    try {
      pool.parallel_for(50, [](int64_t, int) { throw std::bad_alloc(); });
    } catch (const std::bad_alloc&) {
      thrown = true;
    }
    CHECK(thrown);
    // A single index runs on the caller's thread.
    bool alone = false;
    try {
      pool.parallel_for(1, [](int64_t, int) { throw std::bad_alloc(); });
    } catch (const std::bad_alloc&) {
      alone = true;
    }
    CHECK(alone);
  }
}
