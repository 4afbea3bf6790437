#include "cuda/runtime/memory.h"

#include <cuda_runtime_api.h>

#include <map>
#include <memory>
#include <mutex>

#include "cuda/check.h"
#include "cuda/runtime/free_gate.h"

namespace millrace::cuda {

CudaMemory::CudaMemory(int device, Place place, size_t bytes, const char* what)
    : device_(device), place_(place), bytes_(bytes) {
  if (bytes == 0) return;
  check(cudaSetDevice(device_), "choosing the GPU");
  void* p = nullptr;
  if (place_ == Place::device) {
    const cudaError_t status = cudaMalloc(&p, bytes);
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      size_t free = 0, total = 0;
      cudaMemGetInfo(&free, &total);
      throw Error(code::kOutOfMemory,
                  format("%s needs %.1f MiB of GPU memory; %.1f of %.1f MiB are free", what,
                         static_cast<double>(bytes) / (1 << 20), static_cast<double>(free) / (1 << 20),
                         static_cast<double>(total) / (1 << 20)),
                  "stream more layers, lower contextLength or kvTokens, or free GPU memory");
    }
    check(status, what);
  } else {
    check_pinned(cudaHostAlloc(&p, bytes, cudaHostAllocPortable | cudaHostAllocMapped), what, bytes);
  }
  data_ = static_cast<std::byte*>(p);
}

CudaMemory::~CudaMemory() {
  if (data_ == nullptr) return;
  const FreeGate::Freeing freeing;
  cudaSetDevice(device_);
  if (place_ == Place::device) {
    cudaFree(data_);
  } else {
    cudaFreeHost(data_);
  }
}

namespace {

struct Registration {
  std::mutex mutex;  // held while the system pins, which takes long: others' memory is not to wait for it
  int users = 0;
};

std::mutex registrations_mutex;
std::map<const std::byte*, std::shared_ptr<Registration>>& registrations() {  // never destroyed, like the engine
  static auto* map = new std::map<const std::byte*, std::shared_ptr<Registration>>;
  return *map;
}

}  // namespace

HostRegistration::HostRegistration(const std::byte* data, size_t bytes, const char* what) : data_(data) {
  std::shared_ptr<Registration> registration;
  {
    std::lock_guard lock(registrations_mutex);
    std::shared_ptr<Registration>& slot = registrations()[data];
    if (!slot) slot = std::make_shared<Registration>();
    registration = slot;
  }
  std::lock_guard lock(registration->mutex);
  auto* host = const_cast<std::byte*>(data);
  if (registration->users == 0) {
    check_pinned(cudaHostRegister(host, bytes, cudaHostRegisterPortable | cudaHostRegisterMapped), what, bytes);
  }
  void* mapped = nullptr;
  const cudaError_t status = cudaHostGetDevicePointer(&mapped, host, 0);
  if (status != cudaSuccess && registration->users == 0) cudaHostUnregister(host);
  check(status, what);
  registration->users++;
  device_address_ = static_cast<const std::byte*>(mapped);
}

HostRegistration::~HostRegistration() {
  std::lock_guard lock(registrations_mutex);
  const auto at = registrations().find(data_);
  const std::shared_ptr<Registration> registration = at->second;
  std::lock_guard own(registration->mutex);
  if (--registration->users > 0) return;
  const FreeGate::Freeing freeing;
  cudaHostUnregister(const_cast<std::byte*>(data_));
  if (registration.use_count() == 2) registrations().erase(at);  // nobody is about to use it
}

}  // namespace millrace::cuda
