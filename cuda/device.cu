#include "cuda/device.h"

#include <cstdio>
#include <cstdlib>

#include "cuda/check.h"
#include "cuda/plan/facts_per_device.h"
#include "cuda/plan/refusal.h"

namespace millrace::cuda {
namespace {

// Tells what it was compiled for: the driver loads all kernels of a build alike.
__global__ void code_kernel() {}

int test_number(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? std::atoi(value) : 0;
}
int test_capability() {
  const char* value = std::getenv("MILLRACE_TEST_CAPABILITY");
  int major = 0, minor = 0;
  return value != nullptr && std::sscanf(value, "%d.%d", &major, &minor) == 2 ? 10 * major + minor : 0;
}

cudaError_t ask(int device, DeviceFacts* facts) {
  int major = 0, minor = 0, opt_in = 0;
  struct Wanted {
    int* value;
    cudaDeviceAttr attribute;
  };
  for (const Wanted& w : {Wanted{&major, cudaDevAttrComputeCapabilityMajor},
                          {&minor, cudaDevAttrComputeCapabilityMinor},
                          {&facts->sms, cudaDevAttrMultiProcessorCount},
                          {&facts->sm_bytes, cudaDevAttrMaxSharedMemoryPerMultiprocessor},
                          {&opt_in, cudaDevAttrMaxSharedMemoryPerBlockOptin}}) {
    const cudaError_t status = cudaDeviceGetAttribute(w.value, w.attribute, device);
    if (status != cudaSuccess) return status;
  }
  facts->block_bytes = opt_in;
  facts->capability = 10 * major + minor;
  facts->sm90 = facts->capability == 90 && sm90_kernels();
  cudaFuncAttributes code{};
  const cudaError_t status = cudaFuncGetAttributes(&code, code_kernel);
  if (status != cudaSuccess) return status;
  const bool old_code = code.ptxVersion > 0 && code.ptxVersion < facts->capability;
  if (old_code) facts->capability = code.ptxVersion;
  *facts = limited(*facts, test_number("MILLRACE_TEST_SHARED_BYTES"), test_capability());
  return cudaSuccess;
}

}  // namespace

cudaError_t device_facts(const DeviceFacts** found) {
  int device = 0;
  if (const cudaError_t status = cudaGetDevice(&device); status != cudaSuccess) return status;
  static auto* facts = new FactsPerDevice<DeviceFacts>;  // never destroyed: threads may be inside a step at the end
  return facts->get(
      device, [&](DeviceFacts* asked) { return ask(device, asked); }, found);
}

void require_kernels() {
  const DeviceFacts* facts = nullptr;
  const cudaError_t status = device_facts(&facts);
  if (status == cudaErrorNoKernelImageForDevice || status == cudaErrorInvalidKernelImage ||
      status == cudaErrorUnsupportedPtxVersion) {
    cudaGetLastError();
    int device = 0, major = 0, minor = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    throw Error(code::kDeviceUnavailable,
                format("this build has no kernels for GPU %d (compute capability %d.%d): %s", device, major, minor,
                       cudaGetErrorString(status)),
                format("build for it, with MILLRACE_CUDA_ARCHITECTURES=%d%d in the environment (7.5 is the oldest that "
                       "kernels are written for), or use device: 'cpu'",
                       major, minor));
  }
  check(status, "loading the kernels");
  if (const auto refused = refusal_of(*facts)) {
    throw Error(code::kDeviceUnavailable, *refused, "use device: 'cpu', or another GPU");
  }
}

cudaError_t allow_shared_memory(const void* kernel, int static_bytes, bool largest) {
  int device = 0, opt_in = 0;
  if (const cudaError_t status = cudaGetDevice(&device); status != cudaSuccess) return status;
  cudaError_t status = cudaDeviceGetAttribute(&opt_in, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (status != cudaSuccess) return status;
  cudaFuncAttributes attributes{};
  status = cudaFuncGetAttributes(&attributes, kernel);
  if (status != cudaSuccess) return status;
  const int own = static_cast<int>(attributes.sharedSizeBytes);
  if (own > static_bytes) return cudaErrorInvalidConfiguration;
  status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, opt_in - own);
  if (status != cudaSuccess || !largest) return status;
  return cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
}

}  // namespace millrace::cuda
