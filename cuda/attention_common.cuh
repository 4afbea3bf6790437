#pragma once
// What decode and prefill attention share: where a head's keys and values lie, rope, and the append that stands alone.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

#include "cuda/attention.h"
#include "cuda/common.cuh"
#include "cuda/plan/attention.h"

namespace millrace::cuda {

inline AttentionShape shape_of(const AttentionArguments& a) {
  return {a.heads, a.kv_heads, a.head_dim};
}

inline constexpr double kLog2e = 1.4426950408889634;

// Softmax is taken in powers of two: scores are scaled by log2(e). With a cap, tanh takes them first.
inline float query_scale_of(const AttentionArguments& a) {
  const double root = std::sqrt(static_cast<double>(a.head_dim));
  if (a.cap > 0) return static_cast<float>((a.scale > 0 ? a.scale : 1.0 / root) / a.cap);
  return static_cast<float>(a.scale > 0 ? kLog2e * a.scale : kLog2e / root);
}
inline float score_cap_of(const AttentionArguments& a) {
  return static_cast<float>(kLog2e * a.cap);
}
// Floats from one row of qkv to the next.
__host__ __device__ inline int64_t row_floats_of(const AttentionArguments& a) {
  return static_cast<int64_t>(a.heads + (a.reads_only ? 0 : 2 * a.kv_heads)) * a.head_dim;
}

// Keys of one head in a block are [16, head_dim]; its values follow kv_heads * 16 * head_dim halves later.
__device__ __forceinline__ __half* keys_of(const AttentionArguments& a, int block_id, int kv_head) {
  return a.kv + block_id * a.kv_block_elements + static_cast<int64_t>(kv_head) * kBlockPositions * a.head_dim;
}
__device__ __forceinline__ int64_t values_after_keys(const AttentionArguments& a) {
  return static_cast<int64_t>(a.kv_heads) * kBlockPositions * a.head_dim;
}

// Activations can leave the range of float16; an infinity would turn whole rows into NaN. A NaN stays one.
__device__ __forceinline__ float saturate_half(float x) {
  return x > 65504.0f ? 65504.0f : x < -65504.0f ? -65504.0f : x;
}

// Rotates the pair (x, y) = (element i, element i + head_dim / 2). Every product and sum is rounded by itself, as on
// the CPU twin, so that the cache holds the same bits whichever kernel or device appended them.
__device__ __forceinline__ float2 rotate(float x, float y, float cosine, float sine) {
  return make_float2(__fsub_rn(__fmul_rn(x, cosine), __fmul_rn(y, sine)),
                     __fadd_rn(__fmul_rn(y, cosine), __fmul_rn(x, sine)));
}

// What a head's sink adds to a sum of weights whose reference is `maximum`.
__device__ __forceinline__ float sink_weight(const AttentionArguments& a, int head, float maximum) {
  if (a.sinks_offset < 0) return 0.0f;
  const auto* sinks = reinterpret_cast<const float*>(a.weights.units[a.weights.unit] + a.sinks_offset);
  return exp2_approximate(static_cast<float>(kLog2e) * sinks[head] - maximum);
}

// The first position that a row sees.
__device__ __forceinline__ int first_visible(const AttentionArguments& a, int position) {
  return a.window > 0 ? max(0, position - a.window + 1) : 0;
}

__device__ __forceinline__ uint32_t pack_halves(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// Ropes k and appends k and v of all rows.
cudaError_t append_kv(const AttentionArguments& arguments, cudaStream_t stream, bool programmatic);

}  // namespace millrace::cuda
