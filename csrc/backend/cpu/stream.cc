#include "backend/cpu/stream.h"

#include <cstring>
#include <utility>

#include "core/relax.h"

namespace millrace {

namespace {

// About 20 us of polling before a thread sleeps, as in ThreadPool: the operations of a pass and the events between its
// streams follow each other faster than a sleeper wakes.
constexpr int kSpins = 600;

}  // namespace

void CpuEvent::Mark::reach(std::shared_ptr<CpuFailure> failure) {
  {
    std::lock_guard lock(mutex_);
    failure_ = std::move(failure);
    when_ = std::chrono::steady_clock::now();
    reached_.store(true, std::memory_order_release);
  }
  changed_.notify_all();
}

void CpuEvent::Mark::wait() {
  for (int spin = 0; spin < kSpins; spin++) {
    if (reached()) return;
    cpu_relax();
  }
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return reached(); });
}

std::shared_ptr<CpuFailure> CpuEvent::Mark::failure() const {
  return failure_ != nullptr && !failure_->told.load(std::memory_order_acquire) ? failure_ : nullptr;
}

std::shared_ptr<CpuEvent::Mark> CpuEvent::last() const {
  std::lock_guard lock(mutex_);
  return last_;
}

void CpuEvent::set_last(std::shared_ptr<Mark> mark) {
  std::lock_guard lock(mutex_);
  last_ = std::move(mark);
}

bool CpuEvent::done() const {
  const std::shared_ptr<Mark> mark = last();
  return mark == nullptr || mark->reached();
}

void CpuEvent::synchronize() {
  const std::shared_ptr<Mark> mark = last();
  if (mark == nullptr) return;
  mark->wait();
  if (const std::shared_ptr<CpuFailure> failure = mark->failure()) throw failure->error;
}

double CpuEvent::milliseconds_since(const Event& earlier) const {
  const auto begin = static_cast<const CpuEvent&>(earlier).last()->when_;
  return std::chrono::duration<double, std::milli>(last()->when_ - begin).count();
}

CpuStream::CpuStream(std::shared_ptr<const CpuStreamHooks> hooks)
    : hooks_(std::move(hooks)),
      spare_(new CpuFailure{Error(code::kOutOfMemory, "the system has no memory left", "free memory and try again")}) {}

CpuStream::~CpuStream() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
    enqueued_.fetch_add(1, std::memory_order_release);  // ends the thread's polling
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void CpuStream::enqueue(std::function<void()> operation, std::function<void()> otherwise) {
  push({std::move(operation), std::move(otherwise), false, nullptr, nullptr});
}

void CpuStream::enqueue_always(std::function<void()> operation) {
  push({std::move(operation), {}, true, nullptr, nullptr});
}

void CpuStream::push(Operation operation) {
  bool notify;
  {
    std::lock_guard lock(mutex_);
    if (!thread_.joinable()) thread_ = std::thread([this] { run(); });  // if it throws, nothing was enqueued
    queue_.push_back(std::move(operation));
    enqueued_.fetch_add(1, std::memory_order_release);
    notify = sleeping_;
  }
  if (notify) wake_.notify_one();
}

void CpuStream::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    if (queue_.empty()) {
      if (stop_) return;
      const uint64_t seen = enqueued_.load(std::memory_order_relaxed);
      lock.unlock();
      for (int spin = 0; spin < kSpins && enqueued_.load(std::memory_order_acquire) == seen; spin++) cpu_relax();
      lock.lock();
      sleeping_ = true;
      wake_.wait(lock, [this] { return stop_ || !queue_.empty(); });
      sleeping_ = false;
      continue;
    }
    Operation operation = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    perform(operation);
    operation = {};  // what it captured goes before the operation counts as run
    lock.lock();
    completed_++;
    if (synchronizing_ > 0) finished_.notify_all();
  }
}

void CpuStream::perform(const Operation& operation) {
  if (operation.reach) {
    operation.reach->reach(failure());
    return;
  }
  if (operation.wait) {
    operation.wait->wait();
    fail(operation.wait->failure());
    return;
  }
  if (operation.always) {
    operation.run();
    return;
  }
  if (failure() == nullptr) {
    try {
      operation.run();
      return;
    } catch (...) {
      std::shared_ptr<CpuFailure> failure;
      try {
        failure.reset(new CpuFailure{current_error()});
      } catch (...) {
        failure = spare_;
        failure->told.store(false, std::memory_order_relaxed);
      }
      fail(failure);
    }
  }
  if (operation.otherwise) operation.otherwise();
}

void CpuStream::fail(const std::shared_ptr<CpuFailure>& failure) {
  std::lock_guard lock(mutex_);
  if (failure_ == nullptr) failure_ = failure;
}

std::shared_ptr<CpuFailure> CpuStream::failure() {
  std::lock_guard lock(mutex_);
  return failure_;
}

void CpuStream::synchronize() {
  std::unique_lock lock(mutex_);
  const uint64_t target = enqueued_.load(std::memory_order_relaxed);
  synchronizing_++;
  finished_.wait(lock, [&] { return completed_ >= target; });
  synchronizing_--;
  const std::shared_ptr<CpuFailure> failure = std::exchange(failure_, nullptr);
  if (failure == nullptr) return;
  failure->told.store(true, std::memory_order_release);
  throw failure->error;
}

void CpuStream::copy(std::byte* destination, const std::byte* source, size_t bytes) {
  enqueue([hooks = hooks_, destination, source, bytes] {
    for (size_t done = 0; done < bytes; done += hooks->copy_chunk) {
      if (hooks->before_copy) hooks->before_copy();
      const size_t left = bytes - done;
      std::memcpy(destination + done, source + done, left < hooks->copy_chunk ? left : hooks->copy_chunk);
    }
  });
}

void CpuStream::fill(std::byte* destination, uint8_t value, size_t bytes) {
  enqueue([destination, value, bytes] { std::memset(destination, value, bytes); });
}

void CpuStream::record(Event& event) {
  auto mark = std::make_shared<CpuEvent::Mark>();
  // Enqueued before the event shows it: a wait by another thread on this very stream can then never overtake it.
  push({{}, {}, false, mark, nullptr});
  static_cast<CpuEvent&>(event).set_last(std::move(mark));
}

void CpuStream::wait(Event& event) {
  std::shared_ptr<CpuEvent::Mark> mark = static_cast<CpuEvent&>(event).last();
  if (mark == nullptr || (mark->reached() && mark->failure() == nullptr)) return;
  push({{}, {}, false, nullptr, std::move(mark)});
}

}  // namespace millrace
