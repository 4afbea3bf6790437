#pragma once
// What an expert makes of its gate and up.
#include <cuda_runtime.h>

namespace millrace::cuda {

__device__ __forceinline__ float silu_mul(float gate, float up) {
  return gate / (1.0f + expf(-gate)) * up;
}
__device__ __forceinline__ float clamped_swiglu(float gate, float up, float alpha, float limit) {
  gate = fminf(gate, limit);
  up = fminf(fmaxf(up, -limit), limit);
  return gate / (1.0f + expf(-alpha * gate)) * (up + 1.0f);
}

}  // namespace millrace::cuda
