#pragma once
// From CUDA's status codes to the one error type.
#include <cuda_runtime_api.h>

#include "core/error.h"
#include "core/memory.h"

namespace millrace::cuda {

// A fault after which no call of this process reaches the GPU any more.
inline bool is_lost(cudaError_t status) {
  switch (status) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorContextIsDestroyed:
    case cudaErrorDevicesUnavailable:
    case cudaErrorUnknown:
      return true;
    default:
      return false;
  }
}

inline Error lost_error(const char* what, cudaError_t status) {
  return Error(code::kGpuLost, format("%s: %s", what, cudaGetErrorString(status)),
               "restart the process: a fault on the GPU ends its use there; models on the CPU go on");
}

inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // what is not sticky must not be reported again by the next call
  const char* text = cudaGetErrorString(status);
  if (status == cudaErrorMemoryAllocation) {
    throw Error(code::kOutOfMemory, format("the GPU's memory does not suffice for %s", what),
                "lower contextLength or maxRows, stream more layers, or free GPU memory");
  }
  if (status == cudaErrorNoKernelImageForDevice || status == cudaErrorInvalidDevice ||
      status == cudaErrorInsufficientDriver || status == cudaErrorNoDevice) {
    throw Error(code::kDeviceUnavailable, format("%s: %s", what, text), "see probe() for what was found");
  }
  if (is_lost(status)) throw lost_error(what, status);
  throw Error(code::kInternal, format("%s: %s", what, text), "report this with what led to it");
}

// The same of calls that pin `bytes` of the host's memory: where it gives none, no GPU is to blame.
inline void check_pinned(cudaError_t status, const char* what, size_t bytes) {
  switch (status) {
    case cudaErrorMemoryAllocation:
    case cudaErrorOperatingSystem:
    case cudaErrorNotSupported:
    case cudaErrorNotPermitted:
      cudaGetLastError();
      throw locked_memory_error(what, bytes);
    default:
      check(status, what);
  }
}

}  // namespace millrace::cuda
