#pragma once
// Prefill of the other codes on wgmma (linear_prefill_sm90.cuh), in linear_prefill_{float,q8,k,table}_sm90.cu. Their
// groups are too small for sums in units of a scale: weights are scaled, and minimums added, as they become float16. So
// a weight is rounded, to 11 bits, as in a float16 checkpoint. (llama.cpp and others do the same for prompts.)
#include "cuda/code.cuh"
#include "cuda/linear_prefill_sm90.cuh"

namespace millrace::cuda {
// What weights are multiplied with, so that few become subnormal float16: exact from 2^-18 to 2^12.
constexpr float kStep = 16.0f;

__device__ __forceinline__ uint32_t times(uint32_t a, __half2 scale) {
  return bits_of(__hmul2(half2_of(a), scale));
}

template <WeightType TYPE, int GROUP_SLICES, bool ZEROS = false>
struct CodeSource {
  static constexpr Code kCode = code_of(TYPE);
  static constexpr int kGroup = GROUP_SLICES;
  static constexpr int kSpanBytes = kCode.span_bytes(), kHeaderBytes = kCode.header_bytes(ZEROS);
  static constexpr int kTileBytes = kCode.tile_bytes();
  static constexpr int kSpanStages = kCode.span() / kTileK / kWgmmaSlices;
  static constexpr int kBlockBytes = wgmma_block_bytes(TYPE, GROUP_SLICES, ZEROS);
  static constexpr int kStages = wgmma_stages(TYPE, GROUP_SLICES, ZEROS);
  static constexpr bool kRescales = false, kAnySlice = false;
  static_assert(kWgmmaSlices % kGroup == 0 && (kSpanStages == 1 || kSpanStages == 2));
  using Weights = Tile<kCode.bits, kCode.levels>;

  struct Feed {
    int slices_left;
    bool first;  // stage of a span
    __device__ __forceinline__ void start(const PrefillTask& task) {
      slices_left = task.slices;
      first = true;
    }
    __device__ __forceinline__ int next(const PrefillTask&) {
      const int slices = min(kWgmmaSlices, slices_left);
      slices_left -= slices;
      const int bytes = slices * kTileBytes + (slices + kGroup - 1) / kGroup * kHeaderBytes + (first ? kSpanBytes : 0);
      first = kSpanStages == 1 || !first;
      return bytes;
    }
  };

  const PrefillTask& task;
  const Lane at;
  int slices_left;
  uint32_t weights = 0;
  Span<TYPE, 4> span;
  ZeroShift shifts[2];
  __half2 scales[4], minimums[4];  // [h][f]
  Weights tile;

  __device__ __forceinline__ CodeSource(const PrefillTask& task, int half, int lane)
      : task(task), at{lane, half}, slices_left(task.slices) {}

  __device__ __forceinline__ void read_group(uint32_t header) {
    float numbers[4];
    load_scales<TYPE, 4>(header, at, task.bfloat16_scales, span, numbers);
#pragma unroll
    for (int i = 0; i < 4; i++) scales[i] = __float2half2_rn(numbers[i] * kStep);
    const uint32_t offsets = header + kTileN * kCode.scale_bytes();
    if constexpr (kCode.minimums()) {
      load_minimums<TYPE, 4>(offsets, at, span, numbers);
#pragma unroll
      for (int i = 0; i < 4; i++) minimums[i] = __float2half2_rn(numbers[i] * kStep);
    }
    constexpr int kZero = kCode.levels == Levels::table ? kTableZero : kCode.zero;
    if constexpr (ZEROS) {
      const Bytes<4> zeros(offsets, at);
#pragma unroll
      for (int f = 0; f < 2; f++) shifts[f] = Weights::shift(zeros[f], zeros[2 + f]);
    } else {
#pragma unroll
      for (int f = 0; f < 2; f++) shifts[f] = Weights::shift(kZero, kZero);
    }
  }
  __device__ __forceinline__ void stage(uint32_t from, int s) {
    weights = from;
    if constexpr (kSpanBytes > 0) {
      if (s % kSpanStages == 0) {
        span.load(from, at);
        weights += kSpanBytes;
      }
    }
  }
  // Beyond the last slice, where x is zero, weights are those of the slice before: what lies there may be no number.
  __device__ __forceinline__ bool slice(int k) {
    if (slices_left-- > 0) {
      if (k % kGroup == 0) {
        read_group(weights);
        weights += kHeaderBytes;
      }
      tile.load_half(weights, at.lane, at.half);
      weights += kTileBytes;
    }
    return false;
  }
  __device__ __forceinline__ void registers(int, int f, uint32_t (&a)[4]) const {
    if constexpr (kCode.levels == Levels::table) {
      tile.template registers<TYPE>(f, 0x64006400, shifts[f], a);
    } else {
      tile.registers(f, 0x64006400, shifts[f], a);
    }
#pragma unroll
    for (int r = 0; r < 4; r++) {
      const int i = 2 * (r % 2) + f;
      if constexpr (kTileUnit<TYPE> != 1.0f) a[r] = times(a[r], __float2half2_rn(kTileUnit<TYPE>));
      a[r] = kCode.minimums() ? bits_of(__hfma2(half2_of(a[r]), scales[i], minimums[i])) : times(a[r], scales[i]);
    }
  }
  __device__ __forceinline__ float unit(int, int) const {
    return 1 / kStep;
  }
};

template <class Source>
cudaError_t start_prefill_rows(const PrefillTask& task, const PrefillPlan& plan, cudaStream_t stream,
                               bool programmatic) {
  return plan.rows == 64 ? start_prefill<Source, 64>(task, plan, stream, programmatic)
                         : start_prefill<Source, 128>(task, plan, stream, programmatic);
}

}  // namespace millrace::cuda
