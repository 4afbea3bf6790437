#pragma once
// Facts that threads share of each device: whoever comes first asks, others see all of them. `Status`: whatever type
// asks return, whose zero is success, as cudaError_t's is.
#include <atomic>
#include <map>
#include <mutex>

#include "cuda/plan/done_per_device.h"

namespace millrace::cuda {

template <class Facts>
class FactsPerDevice {
 public:
  // `found`: the device's facts, the same object for good. ask(Facts*) fills them in, once unless it fails: what it
  // returned is returned then, and `found` is untouched.
  template <class Ask>
  auto get(int device, const Ask& ask, const Facts** found) -> decltype(ask(static_cast<Facts*>(nullptr))) {
    using Status = decltype(ask(static_cast<Facts*>(nullptr)));
    const bool few = device >= 0 && device < kFewDevices;
    if (few) {
      if (const Facts* facts = published_[device].load(std::memory_order_acquire)) {
        *found = facts;
        return Status{};
      }
    }
    const std::lock_guard lock(mutex_);
    auto at = known_.find(device);
    if (at == known_.end()) {
      Facts facts{};
      if (const Status status = ask(&facts); status != Status{}) return status;
      at = known_.emplace(device, facts).first;
    }
    *found = &at->second;
    if (few) published_[device].store(&at->second, std::memory_order_release);
    return Status{};
  }

 private:
  std::atomic<const Facts*> published_[kFewDevices] = {};
  std::mutex mutex_;
  std::map<int, Facts> known_;  // whose elements stay where they are
};

}  // namespace millrace::cuda
