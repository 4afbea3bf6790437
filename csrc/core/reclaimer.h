#pragma once
// The process's thread that gives large memory back: unmapping, unpinning and a device's own free take milliseconds to
// seconds, for which a worker, and with it every model of its device, would stand still.
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

namespace millrace {

class Reclaimer {
 public:
  // Never destroyed, like the engine: it may be at work when the process exits.
  static Reclaimer& process();
  Reclaimer() = default;
  ~Reclaimer();  // runs what was posted
  Reclaimer(const Reclaimer&) = delete;
  Reclaimer& operator=(const Reclaimer&) = delete;

  // Runs `work` after all that was posted before. What it throws is nobody's. Runs it at once, on the calling thread,
  // where the system has no thread or no memory for it.
  void post(std::function<void()> work);
  // Lets go of an object there.
  template <typename T>
  void destroy(T object) {
    post([held = std::make_shared<T>(std::move(object))] {});
  }
  // Until all that was posted before has run; at once on its own thread.
  void wait();
  bool idle();

 private:
  void run();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> work_;
  uint64_t posted_ = 0, completed_ = 0;
  bool stop_ = false;
  std::thread thread_;  // from the first post() on
};

}  // namespace millrace
