#include "core/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <exception>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/relax.h"

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace millrace {

namespace {

// Sleep while `word` holds `value`; wake up to `count` sleepers. std::atomic's own wait polls and yields first, and its
// notify_one may wake all.
#if defined(__linux__)
static_assert(sizeof(std::atomic<uint32_t>) == sizeof(uint32_t));
void sleep_on(std::atomic<uint32_t>& word, uint32_t value) {
  ::syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
}
void wake(std::atomic<uint32_t>& word, int count) {
  ::syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE_PRIVATE, count, nullptr, nullptr, 0);
}
#else
void sleep_on(std::atomic<uint32_t>& word, uint32_t value) {
  word.wait(value);
}
void wake(std::atomic<uint32_t>& word, int) {
  word.notify_all();
}
#endif

// Polls until done() or the time is over; says whether it was done.
template <typename Done>
bool spin_until(std::chrono::microseconds time, Done&& done) {
  const auto start = std::chrono::steady_clock::now();
  for (;;) {
    for (int i = 0; i < 16; i++) {
      if (done()) return true;
      cpu_relax();
    }
    if (std::chrono::steady_clock::now() - start > time) return false;
  }
}

}  // namespace

// A loop's life is one word: {generation, closed, active workers}. The caller opens a loop by writing the next
// generation with no closed bit; a worker enters by raising `active` in a compare-and-swap that fails once the loop is
// closed; the caller closes it when the indices have run out and waits for the active ones alone. A worker that was
// not scheduled in time finds the loop closed: nobody waits for it, and it never touches the body.
//
// A worker that enters an old word's twin (the generation wrapped around) enters a loop that is open all the same; one
// that takes a new loop for one that it has seen misses it, and nobody depends on it.
struct ThreadPool::State {
  static constexpr uint32_t kActive = (1u << 15) - 1;
  static constexpr uint32_t kClosed = 1u << 15;
  static constexpr uint32_t kGeneration = 1u << 16;

  // Of the loop that is open. Written by the caller while no worker is inside, read by workers inside.
  int64_t count = 0;
  Invoke invoke = nullptr;
  void* context = nullptr;
  std::atomic<bool> stop{false};
  std::atomic<bool> failed{false};
  std::exception_ptr failure;  // of the body that set `failed`; read by the caller once no worker is inside

  alignas(64) std::atomic<uint32_t> word{kClosed};
  std::atomic<uint32_t> sleepers{0};  // workers that wait on `word`, or are about to
  std::atomic<bool> running{false};
  alignas(64) std::atomic<int64_t> next{0};
  alignas(64) std::atomic<uint32_t> left{0};  // counts last workers that left a closed loop while the caller slept
  std::atomic<bool> caller_sleeps{false};

  std::vector<std::thread> workers;
  std::chrono::microseconds spin{};

  void work(int thread) {
    try {
      for (int64_t i = next.fetch_add(1, std::memory_order_relaxed); i < count;
           i = next.fetch_add(1, std::memory_order_relaxed)) {
        invoke(context, i, thread);
      }
    } catch (...) {
      if (!failed.exchange(true, std::memory_order_relaxed)) failure = std::current_exception();
      next.store(count, std::memory_order_relaxed);  // nobody takes another index
    }
  }

  // An open loop of another generation than `seen`.
  static bool enterable(uint32_t now, uint32_t seen) {
    return (now & kClosed) == 0 && now / kGeneration != seen / kGeneration;
  }

  void worker(int thread) {
    uint32_t seen = kClosed;
    for (;;) {
      uint32_t now = word.load(std::memory_order_acquire);
      const auto ready = [&] {
        now = word.load(std::memory_order_acquire);
        return enterable(now, seen) || stop.load(std::memory_order_relaxed);
      };
      if (!spin_until(spin, ready)) {
        sleepers.fetch_add(1, std::memory_order_seq_cst);
        now = word.load(std::memory_order_seq_cst);
        if (!enterable(now, seen) && !stop.load(std::memory_order_relaxed)) sleep_on(word, now);
        sleepers.fetch_sub(1, std::memory_order_relaxed);
        // Woken too late for a short loop, it polls for the next one rather than sleep through that too.
        continue;
      }
      if (stop.load(std::memory_order_relaxed)) return;
      while (enterable(now, seen)) {
        if (!word.compare_exchange_weak(now, now + 1, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
        seen = now;
        work(thread);
        const uint32_t before = word.fetch_sub(1, std::memory_order_seq_cst);
        if ((before & kActive) == 1 && (before & kClosed) != 0 && caller_sleeps.load(std::memory_order_seq_cst)) {
          left.fetch_add(1, std::memory_order_seq_cst);
          wake(left, 1);
        }
        break;
      }
    }
  }

  void open(int helpers) {
    const uint32_t generation = word.load(std::memory_order_relaxed) / kGeneration + 1;
    word.store(generation * kGeneration, std::memory_order_seq_cst);
    if (sleepers.load(std::memory_order_seq_cst) > 0) wake(word, helpers);
  }

  void close() {
    uint32_t now = word.fetch_or(kClosed, std::memory_order_acq_rel) | kClosed;
    const auto empty = [&] {
      now = word.load(std::memory_order_acquire);
      return (now & kActive) == 0;
    };
    if ((now & kActive) == 0 || spin_until(kThreadPoolSpin, empty)) return;
    // A worker was descheduled inside a body, or its index is a long one: leave it the processor.
    for (;;) {
      const uint32_t departures = left.load(std::memory_order_acquire);
      caller_sleeps.store(true, std::memory_order_seq_cst);
      if ((word.load(std::memory_order_seq_cst) & kActive) == 0) break;
      sleep_on(left, departures);
    }
    caller_sleeps.store(false, std::memory_order_relaxed);
  }
};

ThreadPool::ThreadPool(int threads, std::chrono::microseconds spin)
    : threads_(std::clamp(threads, 1, static_cast<int>(State::kActive))), state_(std::make_unique<State>()) {
  state_->spin = spin;
  try {
    for (int t = 1; t < threads_; t++) state_->workers.emplace_back([this, t] { state_->worker(t); });
  } catch (const std::system_error&) {
    const size_t started = state_->workers.size();
    stop();
    throw Error(code::kOutOfMemory, format("the system started %zu of %d threads and no more", started + 1, threads_),
                "ask for fewer threads, or raise the limits on threads and address space");
  } catch (...) {
    stop();
    throw;
  }
}

ThreadPool::~ThreadPool() {
  stop();
}

void ThreadPool::stop() {
  State& s = *state_;
  s.stop.store(true, std::memory_order_relaxed);
  s.word.fetch_add(State::kGeneration, std::memory_order_seq_cst);  // stays closed: only wakes the sleepers
  wake(s.word, INT_MAX);
  for (std::thread& worker : s.workers) worker.join();
}

void ThreadPool::run(int64_t count, Invoke invoke, void* context) {
  State& s = *state_;
  if (s.running.exchange(true, std::memory_order_relaxed)) {
    throw Error(code::kInternal, "a parallel loop was started while another one runs in the same pool",
                "report this as a bug");
  }
  s.failed.store(false, std::memory_order_relaxed);
  s.count = count;
  s.invoke = invoke;
  s.context = context;
  s.next.store(0, std::memory_order_relaxed);
  const bool alone = threads_ == 1 || count <= 1;
  if (!alone) s.open(static_cast<int>(std::min<int64_t>(count, threads_) - 1));
  s.work(0);
  if (!alone) s.close();
  const std::exception_ptr failure = std::exchange(s.failure, nullptr);
  s.running.store(false, std::memory_order_relaxed);
  if (failure) std::rethrow_exception(failure);
}

}  // namespace millrace
