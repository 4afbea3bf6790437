#include "backend/cpu/cpu_backend.h"

#include <utility>

#include "backend/cpu/executor.h"
#include "backend/cpu/stream.h"
#include "core/error.h"
#include "core/memory.h"

namespace millrace {

namespace {

class CpuMemory final : public Memory {
 public:
  CpuMemory(size_t bytes, const char* what) : memory_(bytes, what) {}
  std::byte* data() const override { return memory_.data(); }
  size_t size() const override { return memory_.size(); }

 private:
  HostMemory memory_;
};

class CpuBackend final : public Backend {
 public:
  CpuBackend(int threads, CpuStreamHooks hooks)
      : compute_(std::make_shared<ComputePool>(threads)),
        hooks_(std::make_shared<const CpuStreamHooks>(std::move(hooks))) {}

  const char* name() const override { return hooks_->device; }
  bool reads_host_memory() const override { return true; }
  bool reaches(const Backend& other) override { return other.reads_host_memory(); }
  std::unique_ptr<Memory> allocate(size_t bytes, const char* what) override {
    return std::make_unique<CpuMemory>(bytes, what);
  }
  std::unique_ptr<Memory> allocate_host(size_t bytes, const char* what) override {
    return std::make_unique<CpuMemory>(bytes, what);
  }
  // Nothing to do: the twin's streams copy from any memory.
  Pinner pinner() override {
    return [](std::byte*, size_t) { return std::make_unique<Pin>(); };
  }
  std::unique_ptr<Stream> create_stream() override { return std::make_unique<CpuStream>(hooks_); }
  std::unique_ptr<Event> create_event(EventUse) override { return std::make_unique<CpuEvent>(); }
  std::unique_ptr<Executor> create_executor(const ExecutorConfig& config) override {
    return std::make_unique<CpuExecutor>(config, compute_, hooks_);
  }

 private:
  const std::shared_ptr<ComputePool> compute_;
  const std::shared_ptr<const CpuStreamHooks> hooks_;
};

}  // namespace

std::unique_ptr<Backend> create_cpu_backend(int threads, CpuStreamHooks hooks) {
  if (threads < 1 || hooks.copy_chunk == 0) {
    throw Error(code::kInvalidArgument, format("cpu backend: threads must be at least 1, found %d", threads),
                "pass the number of cores to compute with");
  }
  return std::make_unique<CpuBackend>(threads, std::move(hooks));
}

}  // namespace millrace
