#include "cuda/cuda_backend.h"

#include <string>

#include "core/error.h"
#include "cuda/check.h"
#include "cuda/device.h"
#include "cuda/executor.h"
#include "cuda/probe.h"
#include "cuda/runtime/memory.h"
#include "cuda/runtime/peer.h"
#include "cuda/runtime/stream.h"

namespace millrace {

namespace cuda {
namespace {

// Mapped too, so that an executor finds the table of rows registered already.
class HostPin final : public Pin {
 public:
  HostPin(const std::byte* data, size_t bytes) : registration_(data, bytes, "pinned memory") {}

 private:
  const HostRegistration registration_;
};

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(int device) : device_(device), name_("cuda:" + std::to_string(device)) {}
  const char* name() const override { return name_.c_str(); }
  bool reads_host_memory() const override { return false; }
  bool reaches(const Backend& other) override {
    const auto* gpu = dynamic_cast<const CudaBackend*>(&other);
    return gpu != nullptr && open_peer(device_, gpu->device_);
  }
  std::unique_ptr<Memory> allocate(size_t bytes, const char* what) override {
    return std::make_unique<CudaMemory>(device_, CudaMemory::Place::device, bytes, what);
  }
  std::unique_ptr<Memory> allocate_host(size_t bytes, const char* what) override {
    return std::make_unique<CudaMemory>(device_, CudaMemory::Place::host, bytes, what);
  }
  std::unique_ptr<Stream> create_stream() override { return std::make_unique<CudaStream>(device_); }
  std::unique_ptr<Event> create_event(EventUse use) override {
    check(cudaSetDevice(device_), "choosing the GPU");
    return std::make_unique<CudaEvent>(use);
  }
  Pinner pinner() override {
    return [device = device_](std::byte* data, size_t bytes) -> std::unique_ptr<Pin> {
      check(cudaSetDevice(device), "choosing the GPU");
      try {
        return std::make_unique<HostPin>(data, bytes);
      } catch (const Error&) {
        return nullptr;  // a limit of the system is no fault of the GPU
      }
    };
  }
  const std::byte* mapped(const std::byte* host) override {
    check(cudaSetDevice(device_), "choosing the GPU");
    void* there = nullptr;
    check(cudaHostGetDevicePointer(&there, const_cast<std::byte*>(host), 0), "mapping experts");
    return static_cast<const std::byte*>(there);
  }
  std::unique_ptr<Executor> create_executor(const ExecutorConfig& config) override {
    return std::make_unique<CudaExecutor>(device_, config);
  }

 private:
  int device_;
  std::string name_;
};

}  // namespace
}  // namespace cuda

std::unique_ptr<Backend> create_cuda_backend(int device) {
  const GpuProbe probe = probe_gpus();
  if (probe.lost) throw Error(code::kGpuLost, probe.reason, "restart the process; models on the CPU go on");
  if (probe.gpus.empty()) {
    throw Error(code::kDeviceUnavailable, "no GPU can be used: " + probe.reason, "use device: 'cpu', or see probe()");
  }
  if (device < 0 || device >= static_cast<int>(probe.gpus.size())) {
    throw Error(code::kDeviceUnavailable, format("there is no GPU %d; found %zu", device, probe.gpus.size()),
                "see probe() for what was found");
  }
  cuda::check(cudaSetDevice(device), "choosing the GPU");
  const cudaError_t started = cudaFree(nullptr);
  if (started == cudaErrorDevicesUnavailable) {  // nothing of ours has run there yet: somebody else has it
    cudaGetLastError();
    throw Error(code::kDeviceUnavailable, format("GPU %d is busy: another process has it to itself", device),
                "end that process, or choose another device");
  }
  cuda::check(started, "starting the GPU");
  cuda::require_kernels();
  return std::make_unique<cuda::CudaBackend>(device);
}

}  // namespace millrace
