#pragma once
// Freeing memory waits for all that the device is at, and may keep other threads' calls waiting meanwhile. A pass that
// runs may wait for the host in its turn: for a mask which a token leads to that the host has yet to read, by such a
// call. Neither may begin while the other is under way.
#include <chrono>
#include <condition_variable>
#include <mutex>

namespace millrace::cuda {

class FreeGate {
 public:
  static FreeGate& process() {
    static auto* gate = new FreeGate;  // never destroyed, like the engine
    return *gate;
  }

  // A pass that is about to be launched will wait for the host, until leave(). Never blocks for longer than what is
  // being freed takes.
  void enter() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return freeing_ == 0; });
    waiting_++;
  }
  void leave() {
    {
      std::lock_guard lock(mutex_);
      waiting_--;
    }
    changed_.notify_all();
  }
  // Somebody is about to free: better no pass that waits for the host now.
  bool wanted() const {
    std::lock_guard lock(mutex_);
    return wanted_ > 0;
  }

  // While it lives no pass waits for the host; but for two seconds at most, whatever went wrong there.
  class Freeing {
   public:
    Freeing() {
      FreeGate& gate = process();
      std::unique_lock lock(gate.mutex_);
      gate.wanted_++;
      gate.changed_.wait_for(lock, std::chrono::seconds(2), [&gate] { return gate.waiting_ == 0; });
      gate.freeing_++;
    }
    ~Freeing() {
      FreeGate& gate = process();
      {
        std::lock_guard lock(gate.mutex_);
        gate.wanted_--;
        gate.freeing_--;
      }
      gate.changed_.notify_all();
    }
    Freeing(const Freeing&) = delete;
    Freeing& operator=(const Freeing&) = delete;
  };

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  int waiting_ = 0, wanted_ = 0, freeing_ = 0;
};

}  // namespace millrace::cuda
