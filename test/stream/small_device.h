#pragma once
#include <atomic>
#include <cstring>
#include <memory>

#include "backend/cpu/cpu_backend.h"
#include "core/error.h"
#include "core/reclaimer.h"

namespace millrace {

// Device memory that is not host memory, and of which there may be too little.
class SmallDevice final : public Backend {
 public:
  SmallDevice(CpuStreamHooks hooks, size_t bytes)
      : inner_(create_cpu_backend(1, std::move(hooks))), left_(std::make_shared<std::atomic<size_t>>(bytes)) {}
  const char* name() const override { return "small"; }
  bool reads_host_memory() const override { return false; }
  bool reaches(const Backend&) override { return false; }
  std::unique_ptr<Memory> allocate(size_t bytes, const char* what) override {
    if (refuses_ || bytes > left_->load()) throw Error(code::kOutOfMemory, what, "none");
    *left_ -= bytes;
    return std::make_unique<Counted>(inner_->allocate(bytes, what), bytes, left_);
  }
  std::unique_ptr<Memory> allocate_host(size_t bytes, const char* what) override {
    if (refuses_host_) throw Error(code::kOutOfMemory, what, "none");
    return inner_->allocate_host(bytes, what);
  }
  Pinner pinner() override { return inner_->pinner(); }
  std::unique_ptr<Stream> create_stream() override { return inner_->create_stream(); }
  std::unique_ptr<Event> create_event(EventUse use) override { return inner_->create_event(use); }
  std::unique_ptr<Executor> create_executor(const ExecutorConfig& config) override {
    return inner_->create_executor(config);
  }
  // Once what was given up has been freed.
  size_t left() const {
    Reclaimer::process().wait();
    return *left_;
  }
  // From here on others have all memory that is free or becomes so; or all that can be pinned.
  void refuse(bool refuses) { refuses_ = refuses; }
  void refuse_host_memory(bool refuses) { refuses_host_ = refuses; }
  // The same, also once the device is gone.
  std::shared_ptr<const std::atomic<size_t>> counter() const { return left_; }

 private:
  class Counted final : public Memory {
   public:
    Counted(std::unique_ptr<Memory> inner, size_t bytes, std::shared_ptr<std::atomic<size_t>> left)
        : inner_(std::move(inner)), bytes_(bytes), left_(std::move(left)) {}
    ~Counted() override {
      std::memset(inner_->data(), 0xff, bytes_);  // whoever still reads it shall notice
      *left_ += bytes_;
    }
    std::byte* data() const override { return inner_->data(); }
    size_t size() const override { return bytes_; }

   private:
    std::unique_ptr<Memory> inner_;
    size_t bytes_;
    std::shared_ptr<std::atomic<size_t>> left_;
  };
  std::unique_ptr<Backend> inner_;
  std::shared_ptr<std::atomic<size_t>> left_;
  bool refuses_ = false, refuses_host_ = false;
};

}  // namespace millrace
