#pragma once
// The arithmetic of RMSNorm, shared by the kernel of its own (norm.cu) and by linears that norm their rows themselves:
// the same sums in the same order, so the same bits. 256 threads; thread t squares and adds vectors t, t + 256, ... of
// four, then lanes and warps meet in butterflies.
#include <cuda_fp16.h>

#include "cuda/common.cuh"
#include "cuda/plan/decode.h"

namespace millrace::cuda {

__device__ __forceinline__ float norm_clamp(float x) {  // a NaN stays one
  return x > 65504.0f ? 65504.0f : x < -65504.0f ? -65504.0f : x;
}
__device__ __forceinline__ float norm_inverse(float sum_of_squares, int width, float epsilon) {
  return 1.0f / sqrtf(sum_of_squares / static_cast<float>(width) + epsilon);
}
__device__ __forceinline__ __half normed_half(float x, float inverse, float weight) {
  return __float2half_rn(norm_clamp(x * inverse * weight));
}
// Lanes' sums to the block's, in every thread. `sums`: shared, eight floats that nobody else uses until the next
// barrier.
__device__ __forceinline__ float norm_block_sum(float sum, uint32_t sums) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
  if (lane == 0) {
    asm volatile("st.shared.f32 [%0], %1;" ::"r"(sums + static_cast<uint32_t>(threadIdx.x) / 32 * 4), "f"(sum)
                 : "memory");
  }
  __syncthreads();
  float total;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(total) : "r"(sums + lane % 8 * 4) : "memory");
#pragma unroll
  for (int offset = 4; offset > 0; offset /= 2) total += __shfl_xor_sync(~0u, total, offset);
  return total;
}

// Norms rows of a width that 256 threads hold in registers, into shared memory.
struct NormRows {
  static constexpr int kHeld = kNormVectors;

  __device__ NormRows(const float* weights, int width) : width_(width), parity_(0) {
#pragma unroll
    for (int i = 0; i < kHeld; i++) weights_[i] = load(weights, i);
  }
  // `to`: halves in shared memory, zeros from `width` to `padded`. Complete after the block's next barrier.
  __device__ __forceinline__ void row(const float* x, float epsilon, uint32_t sums, uint32_t to, int padded) {
    float4 v[kHeld];
#pragma unroll
    for (int i = 0; i < kHeld; i++) v[i] = load(x, i);
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kHeld; i++) {
      sum = fmaf(v[i].x, v[i].x, sum);
      sum = fmaf(v[i].y, v[i].y, sum);
      sum = fmaf(v[i].z, v[i].z, sum);
      sum = fmaf(v[i].w, v[i].w, sum);
    }
    const float inverse = norm_inverse(norm_block_sum(sum, sums + parity_ * 32), width_, epsilon);
    parity_ ^= 1;
#pragma unroll
    for (int i = 0; i < kHeld; i++) {
      const int at = static_cast<int>(threadIdx.x) + i * kNormThreads;
      if (at * 4 >= padded) continue;
      const float4 w = weights_[i];
      const __half out[4] = {normed_half(v[i].x, inverse, w.x), normed_half(v[i].y, inverse, w.y),
                             normed_half(v[i].z, inverse, w.z), normed_half(v[i].w, inverse, w.w)};
      const uint2 bits = *reinterpret_cast<const uint2*>(out);
      asm volatile("st.shared.v2.u32 [%0], {%1,%2};" ::"r"(to + at * 8), "r"(bits.x), "r"(bits.y) : "memory");
    }
  }

 private:
  __device__ __forceinline__ float4 load(const float* from, int i) const {
    const int at = static_cast<int>(threadIdx.x) + i * kNormThreads;
    return at * 4 < width_ ? __ldcg(reinterpret_cast<const float4*>(from) + at) : float4{};
  }
  int width_, parity_;
  float4 weights_[kHeld];
};

}  // namespace millrace::cuda
