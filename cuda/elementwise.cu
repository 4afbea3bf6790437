#include "cuda/common.cuh"
#include "cuda/elementwise.h"

namespace millrace::cuda {

namespace {

__global__ void silu_mul_kernel(const float* x, int intermediate, __half* act, int act_stride) {
  wait_for_predecessor();
  allow_successor();
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= intermediate) return;
  const float* row = x + static_cast<size_t>(blockIdx.y) * 2 * intermediate;
  const float gate = row[i];
  const float value = gate / (1.0f + expf(-gate)) * row[intermediate + i];
  // Large activations saturate; a NaN stays one, so that the sampler sees it.
  const float held = value > 65504.0f ? 65504.0f : value < -65504.0f ? -65504.0f : value;
  act[static_cast<size_t>(blockIdx.y) * act_stride + i] = __float2half_rn(held);
}

}  // namespace

cudaError_t silu_mul(const float* x, int rows, int intermediate, __half* act, int act_stride, cudaStream_t stream,
                     bool programmatic) {
  constexpr int kThreads = 256;
  return launch(silu_mul_kernel, dim3((intermediate + kThreads - 1) / kThreads, rows), dim3(kThreads), 0, stream,
                programmatic, x, intermediate, act, act_stride);
}

}  // namespace millrace::cuda
