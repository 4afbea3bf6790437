#pragma once
// What the two prefill kernels (mma.sync in linear_prefill.cu, wgmma in linear_prefill_sm90.cu) share: the task as the
// device sees it, exact dequantisation, and how a group's scales enter.
//
// Scales never touch the weights: the tensor cores multiply the integers q - zero, which are exact in float16, and the
// float32 sums are kept in units of the current group's scale. At a group's edge the sums are multiplied by
// scale[group - 1] / scale[group], after the last group by its scale: one set of accumulators, no rounded weight, and a
// relative error of about 2^-23 a group.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda/common.cuh"
#include "cuda/linear.h"
#include "cuda/plan/prefill.h"

namespace millrace::cuda {

// Of a mixture: its experts' rows side by side in x, in tiles; the matrix's offset counts from an expert's first byte.
struct PrefillExperts {
  const int4* tiles = nullptr;      // {expert, first row in x, rows, 0}; null: there is one matrix for all rows
  const int32_t* count = nullptr;   // of tiles
  const int32_t* places = nullptr;  // [rows of x]: the rows of y
  // Expert e lies at addresses[e], or where that is null `first` + e * `stride` into the unit's slab.
  const std::byte* const* addresses = nullptr;
  size_t first = 0, stride = 0;
  int64_t bias_offset = -1;  // float32 [n], from an expert's first byte; -1: none
  bool clamped = false;      // what silu_mul makes is clamped_swiglu
  float alpha = 1, limit = 0;
};

struct PrefillTask {
  const std::byte* const* units;
  int unit;
  bool early;
  bool zeros;
  bool bfloat16_scales;
  size_t matrix_offset;
  size_t row_block_bytes;
  int group_bytes;   // q4: of a full group block
  int header_bytes;  // q4: scales and zeros before a group's tiles
  int group_slices;  // q4: tiles a group
  int slices;        // tiles a row block
  int n, n_blocks;
  const __half* x;  // [rows, x_stride], columns from k on are taken as zero
  int k, x_stride, rows;
  LinearEpilogue epilogue;
  float* y;
  int y_stride;
  __half* act;
  int act_stride, intermediate;
  PrefillExperts experts;
};

// q - zero of one word, as the four A registers of mma.m16n8k16. Even registers belong to output feature g, odd ones to
// g + 8; of each feature `step` is 1 (odd: 1/16) and `shift` -(1024 + zero) (odd: -(64 + zero)), or both are 0 in a
// group whose scale is 0. Every product and sum is exact.
struct RowCode {
  __half2 step, shift;
};
__device__ __forceinline__ uint32_t bits_of(__half2 v) {
  return *reinterpret_cast<uint32_t*>(&v);
}
__device__ __forceinline__ __half2 half2_of(uint32_t v) {
  return *reinterpret_cast<__half2*>(&v);
}

__device__ __forceinline__ void dequantise(uint32_t word, const RowCode& even, const RowCode& odd, uint32_t (&a)[4]) {
  constexpr uint32_t kExponent = 0x64006400;  // 1024 + q in float16
  const uint32_t high = word >> 8;
  a[0] = bits_of(__hfma2(half2_of(and_or(word, 0x000f000f, kExponent)), even.step, even.shift));
  a[1] = bits_of(__hfma2(half2_of(and_or(word, 0x00f000f0, kExponent)), odd.step, odd.shift));
  a[2] = bits_of(__hfma2(half2_of(and_or(high, 0x000f000f, kExponent)), even.step, even.shift));
  a[3] = bits_of(__hfma2(half2_of(and_or(high, 0x00f000f0, kExponent)), odd.step, odd.shift));
}

__device__ __forceinline__ RowCode row_code(bool odd, int zero, bool live) {
  if (!live) return {__half2half2(__ushort_as_half(0)), __half2half2(__ushort_as_half(0))};
  const float step = odd ? 1.0f / 16 : 1.0f;
  return {__float2half2_rn(step), __float2half2_rn(-(1024 * step + static_cast<float>(zero)))};
}

// The unit that sums are kept in: the scale, or 1 where the scale is 0 (or so small that dividing by it overflows,
// which no float16 scale is) and the group therefore not `live`.
__device__ __forceinline__ float unit_of_scale(float scale, bool& live) {
  live = !(fabsf(scale) < 0x1p-70f);  // NaN is live, and stays
  return live ? scale : 1.0f;
}

__device__ __forceinline__ float scale_of(uint16_t bits, bool bfloat16) {
  return bfloat16 ? __uint_as_float(static_cast<uint32_t>(bits) << 16) : __half2float(__ushort_as_half(bits));
}

// A NaN stays one.
__device__ __forceinline__ __half bounded_half(float v) {
  return __float2half_rn(v != v ? v : fminf(fmaxf(v, -65504.0f), 65504.0f));
}
// half(silu(gate) * up), saturating.
__device__ __forceinline__ __half silu_times(float gate, float up) {
  return bounded_half(__fdividef(gate, 1.0f + __expf(-gate)) * up);
}

// By the kernel of the matrix's code, of a plan with `wgmma`.
cudaError_t linear_prefill_wgmma(const PrefillTask& task, const MatrixCode& code, const PrefillPlan& plan,
                                 cudaStream_t stream, bool programmatic);
// What a matrix alone says of its task.
PrefillTask prefill_task_of(const MatrixLayout& matrix);

// sm_90a only: of 4 bits; of other codes, as linear_decode's launches are (linear_decode.cuh).
cudaError_t linear_prefill_sm90(const PrefillTask& task, const PrefillPlan& plan, cudaStream_t stream,
                                bool programmatic);
using PrefillCode = cudaError_t(const PrefillTask& task, const MatrixCode& code, const PrefillPlan& plan,
                                cudaStream_t stream, bool programmatic);
PrefillCode prefill_float_sm90, prefill_q8_sm90, prefill_k_sm90, prefill_table_sm90;

}  // namespace millrace::cuda
