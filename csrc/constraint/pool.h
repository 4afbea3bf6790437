#pragma once
// Threads that make masks, for all models of the process: beside the workers and the backends' own, which wait
// for none of them but for the row that a mask is of.
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>

namespace millrace::constraint {

class Pool {
 public:
  // Never destroyed: its threads may be at work when the process exits.
  static Pool& process();
  // Runs the task on a thread of the pool, or here if the system starts none. What it throws is lost.
  void post(std::function<void()> task);

 private:
  Pool() = default;
  void work();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> tasks_;
  int threads_ = 0, idle_ = 0;
};

}  // namespace millrace::constraint
