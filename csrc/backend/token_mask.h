#pragma once
// Which tokens one row may choose from: a bit a token, the lowest first. Made by whoever knows, while the pass runs;
// the sampler of that row alone waits for it.
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "core/error.h"

namespace millrace {

class TokenMask {
 public:
  using Words = std::vector<uint32_t>;  // tokens beyond them may not be chosen

  // Once, from any thread.
  void set(std::shared_ptr<const Words> words) {
    settle([&] { words_ = std::move(words); });
  }
  void fail(const Error& error) {
    settle([&] { error_ = error; });
  }
  // The words, once they are there; null: they could not be made.
  const Words* wait() const {
    std::unique_lock lock(mutex_);
    settled_.wait(lock, [this] { return done_; });
    return words_.get();
  }
  const std::optional<Error>& error() const { return error_; }  // after wait()

  // Called once with what wait() gives, when it is there, maybe at once, by whoever settles it: it must not block. One
  // at a time; after forget() it is not called any more.
  using Listener = std::function<void(const Words*)>;
  void listen(Listener listener) const {
    std::lock_guard lock(mutex_);
    if (done_) {
      listener(words_.get());
    } else {
      listener_ = std::move(listener);
    }
  }
  void forget() const {
    std::lock_guard lock(mutex_);
    listener_ = nullptr;
  }

 private:
  template <typename Change>
  void settle(Change&& change) {
    {
      std::lock_guard lock(mutex_);
      change();
      done_ = true;
      if (listener_) listener_(words_.get());
      listener_ = nullptr;
    }
    settled_.notify_all();
  }

  mutable std::mutex mutex_;
  mutable std::condition_variable settled_;
  mutable Listener listener_;
  bool done_ = false;
  std::shared_ptr<const Words> words_;
  std::optional<Error> error_;
};

}  // namespace millrace
