#include "constraint/pool.h"

#include <algorithm>
#include <system_error>
#include <thread>

namespace millrace::constraint {

namespace {

constexpr int kMostThreads = 8;

}  // namespace

Pool& Pool::process() {
  static Pool* pool = new Pool;
  return *pool;
}

void Pool::post(std::function<void()> task) {
  {
    std::lock_guard lock(mutex_);
    const int most = std::clamp(static_cast<int>(std::thread::hardware_concurrency()) / 2, 1, kMostThreads);
    if (static_cast<size_t>(idle_) <= tasks_.size() && threads_ < most) {
      try {
        std::thread([this] { work(); }).detach();
        threads_++;
        idle_++;
      } catch (const std::system_error&) {
        // Those that there are do it.
      }
    }
    if (threads_ > 0) {
      tasks_.push_back(std::move(task));
      task = nullptr;
    }
  }
  if (task) {
    task();
  } else {
    wake_.notify_one();
  }
}

void Pool::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return !tasks_.empty(); });
    std::function<void()> task = std::move(tasks_.front());
    tasks_.pop_front();
    idle_--;
    lock.unlock();
    try {
      task();
    } catch (...) {
      // Tasks tell of what they could not do themselves.
    }
    task = nullptr;
    lock.lock();
    idle_++;
  }
}

}  // namespace millrace::constraint
