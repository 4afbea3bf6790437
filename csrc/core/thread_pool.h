#pragma once
// A fixed pool for fork-join loops. The caller works too; workers spin briefly for the next loop (a token's kernels
// follow each other within microseconds) and then sleep, so an idle model costs nothing and a busy 2-core machine is
// not spun to death.
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <type_traits>

namespace millrace {

// How long a worker polls for the next loop before it sleeps. The loops of a pass follow each other within a few
// microseconds, a prepare or a norm between them takes some ten; waking a sleeper costs about as much as this, and more
// at the next loop, which starts without it. Beside a GPU milliseconds lie between two loops: polling through them was
// slower (docs/notes/streaming.md), since pollers hold every processor when another thread has work.
inline constexpr std::chrono::microseconds kThreadPoolSpin{50};

class ThreadPool {
 public:
  // `threads` counts the caller: 1 means no workers at all; they poll for the next loop for `spin`. Throws
  // OUT_OF_MEMORY if the system starts no more threads.
  explicit ThreadPool(int threads, std::chrono::microseconds spin = kThreadPoolSpin);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }

  // Runs body(index, thread) for every index in [0, count), on up to threads() threads, and returns when all have
  // run; what they wrote is visible to the caller. `thread` is in [0, threads()) and unique among those running, for
  // scratch memory. Indices are taken dynamically: results must not depend on who runs which. The caller waits only for
  // workers that have taken part, never for one that has not woken up. One loop at a time a pool: from within a body,
  // or from a second thread, it throws INTERNAL. What a body throws first comes back to the caller; indices that nobody
  // has taken by then are left out.
  template <typename Body>
  void parallel_for(int64_t count, Body&& body) {
    using Plain = std::remove_reference_t<Body>;
    run(
        count, [](void* context, int64_t index, int thread) { (*static_cast<Plain*>(context))(index, thread); },
        const_cast<std::remove_const_t<Plain>*>(std::addressof(body)));
  }

 private:
  using Invoke = void (*)(void* context, int64_t index, int thread);
  void run(int64_t count, Invoke invoke, void* context);
  void stop();

  struct State;
  int threads_;
  std::unique_ptr<State> state_;
};

}  // namespace millrace
