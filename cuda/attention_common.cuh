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
  return {a.heads, a.kv_heads, a.head_dim, a.kv_type};
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

// Keys of one head in a block are [16, head_dim], of 8 bits with their scales behind them; its values follow kv_heads
// such parts later. In halves, whatever lies there.
__device__ __forceinline__ int64_t part_halves_of(const AttentionArguments& a) {
  return static_cast<int64_t>(kv_part_bytes(a.kv_type, a.head_dim) / 2);
}
__device__ __forceinline__ __half* keys_of(const AttentionArguments& a, int block_id, int kv_head) {
  return a.kv + block_id * a.kv_block_elements + kv_head * part_halves_of(a);
}
__device__ __forceinline__ int64_t values_after_keys(const AttentionArguments& a) {
  return a.kv_heads * part_halves_of(a);
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

// D += A B of integers, A [16, 32] of int8, B [32, 8] of uint8. Lane (g, t): a0 row g, columns 4t..4t+3, a1 the same of
// row g + 8, a2 and a3 sixteen columns on; b0 rows 4t..4t+3 of column g, b1 sixteen rows on; d as in mma_m16n8k16.
__device__ __forceinline__ void mma_m16n8k32_s8_u8(int32_t (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                                   uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.u8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
               : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
#else  // sm_75 has eight rows and sixteen columns at once
  const uint32_t a[4] = {a0, a1, a2, a3}, b[2] = {b0, b1};
  for (int columns = 0; columns < 2; columns++) {
    for (int rows = 0; rows < 2; rows++) {
      asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.s8.u8.s32 {%0,%1}, {%2}, {%3}, {%0,%1};\n"
                   : "+r"(d[2 * rows]), "+r"(d[2 * rows + 1])
                   : "r"(a[2 * columns + rows]), "r"(b[columns]));
    }
  }
#endif
}

__device__ __forceinline__ void store_shared_1(uint32_t address, uint32_t v) {
  asm volatile("st.shared.u8 [%0], %1;" ::"r"(address), "r"(v) : "memory");
}
__device__ __forceinline__ void store_shared_4(uint32_t address, uint32_t v) {
  asm volatile("st.shared.u32 [%0], %1;" ::"r"(address), "r"(v) : "memory");
}

// ---- Keys and values of 8 bits, to the bit as csrc/model/kv_type.h has it.
// |x| as bits, whose order as integers is that of sizes, with NaN above all.
__device__ __forceinline__ uint32_t size_bits(float x) {
  return __float_as_uint(saturate_half(x)) & 0x7fffffffu;
}
__device__ __forceinline__ uint32_t warp_most(uint32_t bits) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) bits = max(bits, __shfl_xor_sync(~0u, bits, offset));
  return bits;
}
__device__ __forceinline__ int warp_sum(int x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(~0u, x, offset);
  return x;
}
struct Q8Row {
  float scale, inverse;
};
// `most`: of the row, the largest size_bits().
__device__ __forceinline__ Q8Row q8_row(uint32_t most) {
  const float size = __uint_as_float(most);
  if (!(size >= kQ8LeastMost)) return {most > 0x7f800000u ? size : 0.0f, 0.0f};
  return {__fdiv_rn(size, kQ8Levels), __fdiv_rn(kQ8Levels, size)};
}
__device__ __forceinline__ uint8_t q8_of(float x, const Q8Row& row) {
  return static_cast<uint8_t>(kQ8Zero + __float2int_rn(__fmul_rn(saturate_half(x), row.inverse)));
}
// Weights of values are float16 times their scale, which is 65504 / 127 at most: times this they stay in range and, of
// small scales, precise.
inline constexpr float kQ8WeightUnit = 64.0f;

// Two numbers of 8 bits as float16, exact: bytes 0 and 1, or 2 and 3, of a word.
__device__ __forceinline__ uint32_t q8_halves(uint32_t word, bool upper) {
  const uint32_t biased = __byte_perm(word, 0x64646464u, upper ? 0x4342 : 0x4140);  // 1024 + q
  const __half2 v = __hsub2(*reinterpret_cast<const __half2*>(&biased), __half2half2(__ushort_as_half(0x6480)));
  return *reinterpret_cast<const uint32_t*>(&v);
}
__device__ __forceinline__ uint4 q8_eight_halves(uint2 eight) {
  return {q8_halves(eight.x, false), q8_halves(eight.x, true), q8_halves(eight.y, false), q8_halves(eight.y, true)};
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
