#pragma once
// Streams and events of the CPU twin, with CUDA's meaning: a stream is a FIFO run by a thread of its own, an event
// stands for the record enqueued last.
//
// What an operation throws is kept: the stream has failed, and leaves out the work that follows until synchronize() has
// told of it. Records, and the waits of others for them, go on, so that nothing hangs; a failure travels with them: who
// waits for an event that was recorded on a failed stream has failed too, and a host that synchronizes with it is told.
// A failure that any synchronize() has told travels no further.
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "backend/backend.h"
#include "backend/cpu/cpu_backend.h"
#include "core/error.h"

namespace millrace {

struct CpuFailure {
  Error error;
  std::atomic<bool> told{false};
};

class CpuEvent final : public Event {
 public:
  // One record of an event. Records and waits in flight share it, so that an event recorded anew, or destroyed, leaves
  // earlier waits as they were.
  class Mark {
   public:
    bool reached() const { return reached_.load(std::memory_order_acquire); }
    // `failure`: of the stream, or null.
    void reach(std::shared_ptr<CpuFailure> failure);
    void wait();
    // Once it is reached: what had failed by then and nobody was told of, or null.
    std::shared_ptr<CpuFailure> failure() const;

   private:
    std::atomic<bool> reached_{false};
    std::shared_ptr<CpuFailure> failure_;  // before it is reached
    std::mutex mutex_;
    std::condition_variable changed_;
    std::chrono::steady_clock::time_point when_;  // before it is reached

    friend class CpuEvent;
  };

  bool done() const override;
  void synchronize() override;  // throws what the stream that recorded it had failed with
  double milliseconds_since(const Event& earlier) const override;

  std::shared_ptr<Mark> last() const;  // null if never recorded
  void set_last(std::shared_ptr<Mark> mark);

 private:
  mutable std::mutex mutex_;
  std::shared_ptr<Mark> last_;
};

class CpuStream final : public Stream {
 public:
  explicit CpuStream(std::shared_ptr<const CpuStreamHooks> hooks);
  ~CpuStream() override;  // runs what was enqueued

  void copy(std::byte* destination, const std::byte* source, size_t bytes) override;
  void fill(std::byte* destination, uint8_t value, size_t bytes) override;
  void record(Event& event) override;
  void wait(Event& event) override;
  // Throws what the stream has failed with since the last call; then it runs again what it is handed.
  void synchronize() override;

  // Runs `operation` on the stream's thread after all that was enqueued before, unless the stream has failed by then.
  // If it has, or the operation throws, `otherwise` runs, which must not throw. Neither may synchronize this stream.
  // The thread starts with the first operation.
  void enqueue(std::function<void()> operation, std::function<void()> otherwise = {});
  // Runs it whether the stream has failed or not; it must not throw.
  void enqueue_always(std::function<void()> operation);

 private:
  struct Operation {
    std::function<void()> run, otherwise;
    bool always = false;
    std::shared_ptr<CpuEvent::Mark> reach, wait;  // instead
  };
  void push(Operation operation);
  void run();
  void perform(const Operation& operation);
  void fail(const std::shared_ptr<CpuFailure>& failure);
  std::shared_ptr<CpuFailure> failure();

  std::shared_ptr<const CpuStreamHooks> hooks_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable finished_;
  std::deque<Operation> queue_;          // under mutex_
  std::shared_ptr<CpuFailure> failure_;  // under mutex_
  std::shared_ptr<CpuFailure> spare_;    // for when there is no memory even to say so
  bool stop_ = false;                    // under mutex_
  bool sleeping_ = false;                // under mutex_
  uint64_t completed_ = 0;               // under mutex_
  int synchronizing_ = 0;                // under mutex_
  std::atomic<uint64_t> enqueued_{0};    // written under mutex_; polled by the thread before it sleeps
  std::thread thread_;                   // started under mutex_
};

}  // namespace millrace
