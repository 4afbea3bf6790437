#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include "cuda/check.h"
#include "cuda/probe.h"

namespace millrace {
namespace {

// The driver's management library tells free memory and the link without a context, which would cost hundreds of
// megabytes on each GPU until the process ends. It comes with the driver, so it is looked for at run time.
class Management {
 public:
  Management() {
    library_ = ::dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library_ == nullptr) return;
    auto init = symbol<int (*)()>("nvmlInit_v2");
    by_bus_id_ = symbol<ByBusId>("nvmlDeviceGetHandleByPciBusId_v2");
    memory_ = symbol<MemoryInfo>("nvmlDeviceGetMemoryInfo");
    generation_ = symbol<Number>("nvmlDeviceGetMaxPcieLinkGeneration");
    width_ = symbol<Number>("nvmlDeviceGetMaxPcieLinkWidth");
    usable_ = init != nullptr && by_bus_id_ != nullptr && init() == 0;
  }
  ~Management() {
    if (usable_) {
      if (auto shutdown = symbol<int (*)()>("nvmlShutdown")) shutdown();
    }
    if (library_ != nullptr) ::dlclose(library_);
  }
  Management(const Management&) = delete;
  Management& operator=(const Management&) = delete;

  void describe(const char* bus_id, GpuInfo& gpu) const {
    Device device = nullptr;
    if (!usable_ || by_bus_id_(bus_id, &device) != 0) return;
    Memory memory{};
    if (memory_ != nullptr && memory_(device, &memory) == 0) gpu.memory_free_bytes = memory.free;
    unsigned generation = 0, width = 0;
    if (generation_ != nullptr && width_ != nullptr && generation_(device, &generation) == 0 &&
        width_(device, &width) == 0 && width > 0) {
      gpu.link = "PCIe " + std::to_string(generation) + ".0 x" + std::to_string(width);
    }
  }

 private:
  using Device = struct nvmlDevice_st*;
  struct Memory {
    unsigned long long total, free, used;  // bytes
  };
  using ByBusId = int (*)(const char*, Device*);
  using MemoryInfo = int (*)(Device, Memory*);
  using Number = int (*)(Device, unsigned*);

  template <typename Function>
  Function symbol(const char* name) const {
    return reinterpret_cast<Function>(::dlsym(library_, name));
  }

  void* library_ = nullptr;
  bool usable_ = false;
  ByBusId by_bus_id_ = nullptr;
  MemoryInfo memory_ = nullptr;
  Number generation_ = nullptr;
  Number width_ = nullptr;
};

std::string cuda_version(int version) {  // 13000 is 13.0
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

std::string reason_for(cudaError_t error) {
  int driver = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
    return "no NVIDIA driver: libcuda.so.1 was not found or reached no device (in a container, the GPUs must be passed "
           "in)";
  }
  switch (error) {
    case cudaErrorInsufficientDriver:
      return "the NVIDIA driver is too old: it knows CUDA " + cuda_version(driver) + ", this build uses CUDA " +
             cuda_version(CUDART_VERSION) + ", which needs driver " + (CUDART_VERSION >= 13000 ? "580" : "525") +
             " or newer";
    case cudaErrorNoDevice:
      return "the NVIDIA driver is there, but no GPU is visible (see CUDA_VISIBLE_DEVICES)";
    default:
      return std::string("CUDA failed to start: ") + cudaGetErrorString(error);
  }
}

constexpr const char* kLost = "a fault on the GPU has ended its use in this process";

}  // namespace

GpuProbe probe_gpus() {
  GpuProbe probe;
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) {
    probe.lost = cuda::is_lost(error);
    probe.reason = probe.lost ? kLost : reason_for(error == cudaSuccess ? cudaErrorNoDevice : error);
    return probe;
  }
  const Management management;
  for (int index = 0; index < count; ++index) {
    cudaDeviceProp properties{};
    if (cudaGetDeviceProperties(&properties, index) != cudaSuccess) continue;
    GpuInfo gpu;
    gpu.index = index;
    gpu.name = properties.name;
    gpu.compute_major = properties.major;
    gpu.compute_minor = properties.minor;
    gpu.memory_bytes = properties.totalGlobalMem;
    gpu.memory_free_bytes = properties.totalGlobalMem;
    gpu.link = "unknown";
    char bus_id[32] = "";
    if (cudaDeviceGetPCIBusId(bus_id, sizeof bus_id, index) == cudaSuccess) management.describe(bus_id, gpu);
    probe.gpus.push_back(gpu);
  }
  if (probe.gpus.empty()) probe.reason = "CUDA counts " + std::to_string(count) + " GPUs but describes none of them";
  return probe;
}

}  // namespace millrace
