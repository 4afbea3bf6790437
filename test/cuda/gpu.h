#pragma once
// What the GPU's own C++ tests share. They need a GPU; elsewhere each says why it is skipped.
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <string>
#include <thread>

#include "check.h"
#include "cuda/probe.h"

namespace millrace {

// How many GPUs there are to test with, at least one.
inline int require_gpus() {
  const GpuProbe probe = probe_gpus();
  if (probe.gpus.empty()) SKIP(probe.reason);
  return static_cast<int>(probe.gpus.size());
}

// Ends the program where a test does not: a kernel that waits for ever cannot be ended otherwise.
class Watchdog {
 public:
  explicit Watchdog(std::chrono::seconds patience)
      : thread_([this, patience] {
          std::unique_lock lock(mutex_);
          if (ended_.wait_for(lock, patience, [this] { return over_; })) return;
          std::fprintf(stderr, "%s: nothing has come of it for %lld s: %s\n", check::registry().current,
                       static_cast<long long>(patience.count()), at_.c_str());
          std::printf("FAILED %s\n0 passed, 1 failed\n", check::registry().current);
          std::fflush(stdout);
          ::_exit(3);
        }) {}
  ~Watchdog() {
    {
      std::lock_guard lock(mutex_);
      over_ = true;
    }
    ended_.notify_all();
    thread_.join();
  }
  // What is being tried, for whom it hangs.
  void at(std::string what) {
    std::lock_guard lock(mutex_);
    at_ = std::move(what);
  }

 private:
  std::mutex mutex_;
  std::condition_variable ended_;
  bool over_ = false;
  std::string at_ = "the beginning";
  std::thread thread_;
};

}  // namespace millrace
