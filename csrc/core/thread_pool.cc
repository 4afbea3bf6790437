#include "core/thread_pool.h"

#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace millrace {

namespace {

// About 20 us of polling before a worker sleeps: the kernels of a pass follow each other faster than that, and a
// futex wake costs about as much.
constexpr int kSpins = 600;

inline void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

struct ThreadPool::State {
  // A loop is published by its generation. `open` counts the workers that may still look at the loop: the caller
  // returns only when it is zero, so that the body may live on the caller's stack.
  std::atomic<uint32_t> generation{0};
  std::atomic<int64_t> next{0};
  std::atomic<int> open{0};
  int64_t count = 0;
  Invoke invoke = nullptr;
  void* context = nullptr;
  std::atomic<bool> stop{false};

  std::mutex mutex;
  std::condition_variable wake;
  std::atomic<int> sleepers{0};
  std::vector<std::thread> workers;

  void work(int thread) {
    for (int64_t i = next.fetch_add(1, std::memory_order_relaxed); i < count;
         i = next.fetch_add(1, std::memory_order_relaxed)) {
      invoke(context, i, thread);
    }
  }

  void worker(int thread) {
    uint32_t seen = 0;
    for (;;) {
      uint32_t now = generation.load(std::memory_order_acquire);
      for (int spin = 0; now == seen && spin < kSpins; spin++) {
        relax();
        now = generation.load(std::memory_order_acquire);
      }
      if (now == seen) {
        std::unique_lock lock(mutex);
        sleepers.fetch_add(1, std::memory_order_seq_cst);
        wake.wait(lock, [&] { return generation.load(std::memory_order_seq_cst) != seen; });
        sleepers.fetch_sub(1, std::memory_order_relaxed);
        now = generation.load(std::memory_order_acquire);
      }
      seen = now;
      if (stop.load(std::memory_order_relaxed)) return;
      work(thread);
      open.fetch_sub(1, std::memory_order_acq_rel);
    }
  }

  void publish() {
    generation.fetch_add(1, std::memory_order_seq_cst);
    if (sleepers.load(std::memory_order_seq_cst) > 0) {
      std::lock_guard lock(mutex);
      wake.notify_all();
    }
  }
};

ThreadPool::ThreadPool(int threads) : threads_(threads < 1 ? 1 : threads), state_(std::make_unique<State>()) {
  for (int t = 1; t < threads_; t++) state_->workers.emplace_back([this, t] { state_->worker(t); });
}

ThreadPool::~ThreadPool() {
  state_->stop.store(true, std::memory_order_relaxed);
  state_->publish();
  for (std::thread& worker : state_->workers) worker.join();
}

void ThreadPool::run(int64_t count, Invoke invoke, void* context) {
  State& s = *state_;
  if (threads_ == 1 || count <= 1) {
    for (int64_t i = 0; i < count; i++) invoke(context, i, 0);
    return;
  }
  s.count = count;
  s.invoke = invoke;
  s.context = context;
  s.next.store(0, std::memory_order_relaxed);
  s.open.store(threads_ - 1, std::memory_order_relaxed);
  s.publish();
  s.work(0);
  // Workers that are still inside a body finish soon; those that were not scheduled at all must get the processor.
  for (int spin = 0; s.open.load(std::memory_order_acquire) != 0; spin++) {
    if (spin < kSpins) {
      relax();
    } else {
      std::this_thread::yield();
    }
  }
}

}  // namespace millrace
