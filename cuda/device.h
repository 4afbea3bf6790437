#pragma once
// The current device, as plans see it, and what is done once on each.
#include <cuda_runtime_api.h>

#include "cuda/plan/device.h"
#include "cuda/plan/done_per_device.h"

namespace millrace::cuda {

// Of the current device: asked once, then the same object for good, whichever threads ask.
//
// Tests on one GPU run the plans of others: MILLRACE_TEST_SHARED_BYTES, the shared memory of a thread block at most,
// and MILLRACE_TEST_CAPABILITY, such as 7.5, for the code and features of older ones.
cudaError_t device_facts(const DeviceFacts** facts);

// Whether this build has the kernels of the _sm90 files, and the driver what they need.
bool sm90_kernels();

// Throws DEVICE_UNAVAILABLE where this build has no kernels for the current device.
void require_kernels();

// What is done once on each device, by whoever comes first: on the current one.
class OncePerDevice {
 public:
  template <class Prepare>
  cudaError_t run(const Prepare& prepare) {
    int device = 0;
    if (const cudaError_t status = cudaGetDevice(&device); status != cudaSuccess) return status;
    return done_.run(device, prepare);
  }

 private:
  DonePerDevice done_;
};

// Loads the kernel on the current device and lets it have all dynamic shared memory that a thread block may have.
// `largest`: with the largest carve-out of the L1, as all kernels of a pass should: an SM that must change it drains
// first. static_bytes: of the plan; more than that in the kernel is refused.
cudaError_t allow_shared_memory(const void* kernel, int static_bytes, bool largest);

}  // namespace millrace::cuda
