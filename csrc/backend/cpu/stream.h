#pragma once
// Streams and events of the CPU twin, with CUDA's meaning: a stream is a FIFO run by a thread of its own, an event
// stands for the record enqueued last.
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

namespace millrace {

class CpuEvent final : public Event {
 public:
  // One record of an event. Records and waits in flight share it, so that an event recorded anew, or destroyed, leaves
  // earlier waits as they were.
  class Mark {
   public:
    bool reached() const { return reached_.load(std::memory_order_acquire); }
    void reach();
    void wait();

   private:
    std::atomic<bool> reached_{false};
    std::mutex mutex_;
    std::condition_variable changed_;
    std::chrono::steady_clock::time_point when_;  // before it is reached

    friend class CpuEvent;
  };

  bool done() const override;
  void synchronize() override;
  double milliseconds_since(const Event& earlier) const override;

  std::shared_ptr<Mark> last() const;  // null if never recorded
  void set_last(std::shared_ptr<Mark> mark);

 private:
  mutable std::mutex mutex_;
  std::shared_ptr<Mark> last_;
};

class CpuStream final : public Stream {
 public:
  explicit CpuStream(std::shared_ptr<const CpuStreamHooks> hooks) : hooks_(std::move(hooks)) {}
  ~CpuStream() override;  // runs what was enqueued

  void copy(std::byte* destination, const std::byte* source, size_t bytes) override;
  void fill(std::byte* destination, uint8_t value, size_t bytes) override;
  void record(Event& event) override;
  void wait(Event& event) override;
  void synchronize() override;

  // Runs `operation` on the stream's thread after all that was enqueued before. It must not throw and must not
  // synchronize this stream. The thread starts with the first operation.
  void enqueue(std::function<void()> operation);

 private:
  void run();

  std::shared_ptr<const CpuStreamHooks> hooks_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable finished_;
  std::deque<std::function<void()>> queue_;  // under mutex_
  bool stop_ = false;                        // under mutex_
  bool sleeping_ = false;                    // under mutex_
  uint64_t completed_ = 0;                   // under mutex_
  int synchronizing_ = 0;                    // under mutex_
  std::atomic<uint64_t> enqueued_{0};        // written under mutex_; polled by the thread before it sleeps
  std::thread thread_;                       // started under mutex_
};

}  // namespace millrace
