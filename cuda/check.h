#pragma once
// From CUDA's status codes to the one error type.
#include <cuda_runtime_api.h>

#include "core/error.h"

namespace millrace::cuda {

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
  if (status == cudaErrorInvalidValue || status == cudaErrorNotSupported || status == cudaErrorInvalidConfiguration) {
    throw Error(code::kInternal, format("%s: %s", what, text), "report this with what led to it");
  }
  throw Error(code::kGpuLost, format("%s: %s", what, text),
              "restart the process: a fault on the GPU ends its use there; models on the CPU go on");
}

}  // namespace millrace::cuda
