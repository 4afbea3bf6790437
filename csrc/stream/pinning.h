#pragma once
// Pins the slabs of a model one after the other on a thread of its own, while the repack fills them: pinning takes the
// system about 0.4 s a GiB. Where the system allows no more locked memory the rest stays pageable, and is copied
// through a pinned window (stager.h).
#include <atomic>
#include <memory>
#include <span>
#include <thread>
#include <vector>

#include "backend/backend.h"

namespace millrace {

class Pinning {
 public:
  // Each part begins and ends on whole pages, or is empty. The memory outlives this object.
  Pinning(Pinner pinner, std::vector<std::span<std::byte>> parts);
  ~Pinning();  // lets everything go
  Pinning(const Pinning&) = delete;
  Pinning& operator=(const Pinning&) = delete;

  // Any thread.
  bool pinned(int part) const { return part < done_.load(std::memory_order_acquire); }
  size_t bytes() const { return bytes_.load(std::memory_order_relaxed); }
  // The system allowed no more; what is pinned stays so.
  bool refused() const { return refused_.load(std::memory_order_relaxed); }
  // Until every part is pinned or one was refused.
  void wait();

 private:
  void run();

  const Pinner pinner_;
  const std::vector<std::span<std::byte>> parts_;
  std::vector<std::unique_ptr<Pin>> pins_;  // of the thread, until it has ended
  std::atomic<int> done_{0};
  std::atomic<size_t> bytes_{0};
  std::atomic<bool> refused_{false}, stop_{false}, ended_{false};
  std::thread thread_;
};

}  // namespace millrace
