// One CTA a row. The row stays in registers between the sum of squares and the product, as far as it fits; the weights
// are on their way before the predecessor has ended, where they may be.
#include "cuda/norm.h"

#include <algorithm>

#include "cuda/common.cuh"

namespace millrace::cuda {
namespace {

constexpr int kMaxThreads = 1024;
constexpr int kHeld = 4;  // vectors of the row that a thread keeps

__device__ __forceinline__ float clamp_to_half(float x) {  // a NaN stays one
  return x > 65504.0f ? 65504.0f : x < -65504.0f ? -65504.0f : x;
}

template <int kWide>
struct Vector {
  float v[kWide];
};

template <int kWide>
__device__ __forceinline__ Vector<kWide> load_vector(const float* from) {
  Vector<kWide> r;
  if constexpr (kWide == 4) {
    const float4 x = *reinterpret_cast<const float4*>(from);
    r.v[0] = x.x, r.v[1] = x.y, r.v[2] = x.z, r.v[3] = x.w;
  } else {
    r.v[0] = *from;
  }
  return r;
}

// kWide: 4 where rows are whole 16-byte units, else 1.
template <int kWide>
__global__ __launch_bounds__(kMaxThreads) void norm_kernel(const float* x, int64_t stride, Weights weights,
                                                           size_t norm_offset, float epsilon, int width, __half* y,
                                                           int y_stride, const int32_t* row_indices) {
  __shared__ float warp_sums[kMaxThreads / 32];
  allow_successor();
  if (!weights.early) wait_for_predecessor();
  const auto* weight = reinterpret_cast<const float*>(weights.units[weights.unit] + norm_offset);
  const int vectors = width / kWide, threads = blockDim.x;
  Vector<kWide> w[kHeld] = {}, held[kHeld] = {};
#pragma unroll
  for (int i = 0; i < kHeld; i++) {
    const int at = threadIdx.x + i * threads;
    if (at < vectors) w[i] = load_vector<kWide>(weight + at * kWide);
  }
  if (weights.early) wait_for_predecessor();
  const int row = row_indices == nullptr ? static_cast<int>(blockIdx.x) : row_indices[blockIdx.x];
  if (row < 0) return;
  const float* source = x + row * stride;
  __half* to = y + static_cast<int64_t>(blockIdx.x) * y_stride;
#pragma unroll
  for (int i = 0; i < kHeld; i++) {
    const int at = threadIdx.x + i * threads;
    if (at < vectors) held[i] = load_vector<kWide>(source + at * kWide);
  }
  float sum = 0.0f;
  const auto add = [&](const Vector<kWide>& vector) {
#pragma unroll
    for (int e = 0; e < kWide; e++) sum = fmaf(vector.v[e], vector.v[e], sum);
  };
#pragma unroll
  for (int i = 0; i < kHeld; i++) add(held[i]);
  for (int at = threadIdx.x + kHeld * threads; at < vectors; at += threads)
    add(load_vector<kWide>(source + at * kWide));
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
  if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = sum;
  __syncthreads();
  const int lane = threadIdx.x % 32;
  float total = lane < threads / 32 ? warp_sums[lane] : 0.0f;
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) total += __shfl_xor_sync(~0u, total, offset);
  const float inverse = 1.0f / sqrtf(total / static_cast<float>(width) + epsilon);

  const auto write = [&](int at, const Vector<kWide>& vector, const Vector<kWide>& scale) {
    __half out[kWide];
#pragma unroll
    for (int e = 0; e < kWide; e++) out[e] = __float2half_rn(clamp_to_half(vector.v[e] * inverse * scale.v[e]));
    if constexpr (kWide == 4) {
      *reinterpret_cast<uint2*>(to + at * kWide) = *reinterpret_cast<const uint2*>(out);
    } else {
      to[at] = out[0];
    }
  };
#pragma unroll
  for (int i = 0; i < kHeld; i++) {
    const int at = threadIdx.x + i * threads;
    if (at < vectors) write(at, held[i], w[i]);
  }
  for (int at = threadIdx.x + kHeld * threads; at < vectors; at += threads) {
    write(at, load_vector<kWide>(source + at * kWide), load_vector<kWide>(weight + at * kWide));
  }
}

}  // namespace

cudaError_t rms_norm(const float* x, int64_t stride, const Weights& weights, size_t norm_offset, float epsilon,
                     int rows, int width, __half* y, int y_stride, cudaStream_t stream, bool programmatic,
                     const int32_t* row_indices) {
  if (rows == 0) return cudaSuccess;
  if (width < 1 || norm_offset % 16 != 0) return cudaErrorInvalidValue;
  const bool wide = width % 4 == 0 && stride % 4 == 0 && y_stride % 4 == 0;
  const int vectors = wide ? width / 4 : width;
  // A thread holds its whole part of the row, while that fits.
  const dim3 threads(std::min(((vectors + kHeld - 1) / kHeld + 31) / 32 * 32, kMaxThreads));
  const auto kernel = wide ? norm_kernel<4> : norm_kernel<1>;
  return launch(kernel, dim3(rows), threads, 0, stream, programmatic, x, stride, weights, norm_offset, epsilon, width,
                y, y_stride, row_indices);
}

}  // namespace millrace::cuda
