// One CTA a row. The row stays in registers between the sum of squares and the product, as far as it fits; the weights
// are on their way before the predecessor has ended, where they may be.
#include "cuda/norm.h"

#include "cuda/norm.cuh"

namespace millrace::cuda {
namespace {

constexpr int kHeld = 4;  // vectors of the row that a thread keeps

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
__global__ __launch_bounds__(kNormThreads) void norm_kernel(const float* x, int64_t stride, Weights weights,
                                                            size_t norm_offset, float epsilon, int width, __half* y,
                                                            int y_stride, const int32_t* row_indices) {
  __shared__ float warp_sums[kNormThreads / 32];
  allow_successor();
  if (!weights.early) wait_for_predecessor();
  const auto* weight = reinterpret_cast<const float*>(weights.units[weights.unit] + norm_offset);
  constexpr int threads = kNormThreads;
  const int vectors = width / kWide;
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
  const float inverse = norm_inverse(norm_block_sum(sum, shared_address(warp_sums)), width, epsilon);

  const auto write = [&](int at, const Vector<kWide>& vector, const Vector<kWide>& scale) {
    __half out[kWide];
#pragma unroll
    for (int e = 0; e < kWide; e++) out[e] = normed_half(vector.v[e], inverse, scale.v[e]);
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
  const auto kernel = wide ? norm_kernel<4> : norm_kernel<1>;
  return launch(kernel, dim3(rows), dim3(kNormThreads), 0, stream, programmatic, x, stride, weights, norm_offset,
                epsilon, width, y, y_stride, row_indices);
}

}  // namespace millrace::cuda
