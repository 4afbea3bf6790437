#include "stream/pinning.h"

#include <utility>

namespace millrace {

Pinning::Pinning(Pinner pinner, std::vector<std::span<std::byte>> parts)
    : pinner_(std::move(pinner)), parts_(std::move(parts)), thread_([this] { run(); }) {}

Pinning::~Pinning() {
  stop_.store(true, std::memory_order_relaxed);
  thread_.join();
}

void Pinning::run() {
  for (const std::span<std::byte>& part : parts_) {
    if (stop_.load(std::memory_order_relaxed)) break;
    bool pinned = part.empty();
    try {
      if (!part.empty()) {
        pins_.push_back(pinner_(part.data(), part.size()));
        pinned = pins_.back() != nullptr;
      }
    } catch (const std::exception&) {
      // A device that is lost pins nothing; whoever uses it is told by its own calls.
    }
    if (!pinned) {
      refused_.store(true, std::memory_order_relaxed);
      break;
    }
    bytes_.fetch_add(part.size(), std::memory_order_relaxed);
    done_.fetch_add(1, std::memory_order_release);
  }
  ended_.store(true, std::memory_order_release);
  ended_.notify_all();
}

void Pinning::wait() {
  ended_.wait(false, std::memory_order_acquire);
}

}  // namespace millrace
