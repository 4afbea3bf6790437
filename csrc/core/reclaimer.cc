#include "core/reclaimer.h"

#include <exception>

namespace millrace {

namespace {

void run_quietly(std::function<void()>& work) {
  try {
    work();
  } catch (...) {
    // A device that is lost, say: what it had is gone with it.
  }
  work = nullptr;
}

}  // namespace

Reclaimer& Reclaimer::process() {
  static Reclaimer* reclaimer = new Reclaimer;
  return *reclaimer;
}

Reclaimer::~Reclaimer() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void Reclaimer::post(std::function<void()> work) {
  try {
    std::lock_guard lock(mutex_);
    if (!thread_.joinable()) thread_ = std::thread([this] { run(); });
    work_.push_back(std::move(work));  // or throws and leaves it as it was
    posted_++;
  } catch (const std::exception&) {
    run_quietly(work);
    return;
  }
  changed_.notify_all();
}

void Reclaimer::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stop_ || !work_.empty(); });
    if (work_.empty()) return;
    std::function<void()> work = std::move(work_.front());
    work_.pop_front();
    lock.unlock();
    run_quietly(work);
    lock.lock();
    completed_++;
    changed_.notify_all();
  }
}

void Reclaimer::wait() {
  std::unique_lock lock(mutex_);
  if (thread_.get_id() == std::this_thread::get_id()) return;
  const uint64_t target = posted_;
  changed_.wait(lock, [&] { return completed_ >= target; });
}

bool Reclaimer::idle() {
  std::lock_guard lock(mutex_);
  return completed_ == posted_;
}

}  // namespace millrace
