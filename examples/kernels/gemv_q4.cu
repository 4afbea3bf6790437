// A kernel of your own in the place of gemv_q4: 4-bit weights times a few rows. Plain code, right for every shape that
// it is handed; docs/KERNELS.md walks through it.
//   nvcc --cubin -arch=sm_90 -std=c++17 -I ../../csrc/lab gemv_q4.cu -o gemv_q4.cubin
//   millrace bench kernel --op gemv_q4 --cubin gemv_q4.cubin --verify
//
// A thread block computes one row block (64 output features) for up to kRows rows. Its warps take the 16-feature slices
// of the input in turn; a lane holds the 8 output features and 4 input features that the tile gives it. What the warps
// have is added through shared memory in a fixed order, so a row's bits depend on no other row.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "millrace_kernel.h"

constexpr int kWarps = 8;
constexpr int kRows = 4;

extern "C" __device__ const struct millrace_launch gemv_q4_launch = {
    32 * kWarps,      // threads
    MILLRACE_TILE_N,  // features_per_block
    kRows,            // rows_per_block
    0,                // shared_bytes: all of it is static here
    0,                // programmatic: start when the predecessor has ended
    {0, 0, 0},
};

// x of one row at a stored input feature: zero where it stands for none.
__device__ float x_at(const millrace_linear& a, const int32_t* permutation, const __half* x, int stored) {
  const int feature = permutation != nullptr ? permutation[stored] : stored < a.k ? stored : MILLRACE_PADDING;
  return feature == MILLRACE_PADDING ? 0.0f : __half2float(x[feature]);
}

extern "C" __global__ void __launch_bounds__(32 * kWarps) gemv_q4(const millrace_linear a) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int first_row = blockIdx.y * kRows;
  const int rows = min(kRows, a.rows - first_row);

  // The row block's bytes: groups one after the other, each its scales, its zeros if any, and its tiles.
  const int slices = a.k_stored / MILLRACE_TILE_K, group_slices = a.group / MILLRACE_TILE_K;
  const int header = MILLRACE_TILE_N * (a.zeros ? 3 : 2);
  const int groups = (slices + group_slices - 1) / group_slices;
  const size_t group_bytes = header + static_cast<size_t>(group_slices) * MILLRACE_Q4_TILE_BYTES;
  const size_t row_block_bytes =
      static_cast<size_t>(groups) * header + static_cast<size_t>(slices) * MILLRACE_Q4_TILE_BYTES;
  const unsigned char* slab = a.units[a.unit];
  const unsigned char* row_block = slab + a.matrix_offset + blockIdx.x * row_block_bytes;
  const auto* permutation = a.permuted ? reinterpret_cast<const int32_t*>(slab + a.permutation_offset) : nullptr;
  const __half* x = static_cast<const __half*>(a.x) + static_cast<size_t>(first_row) * a.x_stride;

  float sums[kRows][8] = {};  // [row][4 h + j]: output feature 16 j + 8 h + g
#pragma unroll 2
  for (int slice = warp; slice < slices; slice += kWarps) {
    const unsigned char* group = row_block + slice / group_slices * group_bytes;
    const size_t tile = header + static_cast<size_t>(slice % group_slices) * MILLRACE_Q4_TILE_BYTES;
    const uint4 packed = __ldg(reinterpret_cast<const uint4*>(group + tile) + lane);  // 4 words: j = 0..3
    const uint4 packed_scales = __ldg(reinterpret_cast<const uint4*>(group) + g);     // 8 scales: index 4 h + j
    const unsigned words[4] = {packed.x, packed.y, packed.z, packed.w};
    const unsigned scale_words[4] = {packed_scales.x, packed_scales.y, packed_scales.z, packed_scales.w};
    uint2 zeros = make_uint2(0x08080808u, 0x08080808u);
    if (a.zeros) zeros = __ldg(reinterpret_cast<const uint2*>(group + 2 * MILLRACE_TILE_N) + g);

    float scales[8];
    for (int i = 0; i < 8; i++) {
      const auto bits = static_cast<unsigned short>(scale_words[i / 2] >> (16 * (i % 2)));
      scales[i] = a.scale_type == MILLRACE_SCALE_F16 ? __half2float(__ushort_as_half(bits))
                                                     : __bfloat162float(__ushort_as_bfloat16(bits));
    }
    float weights[8][4];  // [4 h + j][input feature 2 t, 2 t + 1, 2 t + 8, 2 t + 9]
    for (int j = 0; j < 4; j++) {
      for (int h = 0; h < 2; h++) {
        const int zero = ((h == 0 ? zeros.x : zeros.y) >> (8 * j)) & 255;
        for (int i = 0; i < 4; i++) {
          const int nibble = h + 2 * (i / 2) + 4 * (i % 2);
          const int q = (words[j] >> (4 * nibble)) & 15;
          weights[4 * h + j][i] = scales[4 * h + j] * static_cast<float>(q - zero);
        }
      }
    }
    const int stored = slice * MILLRACE_TILE_K + 2 * t;
    for (int row = 0; row < kRows; row++) {
      if (row >= rows) break;
      const __half* x_row = x + static_cast<size_t>(row) * a.x_stride;
      const float x0 = x_at(a, permutation, x_row, stored), x1 = x_at(a, permutation, x_row, stored + 1);
      const float x2 = x_at(a, permutation, x_row, stored + 8), x3 = x_at(a, permutation, x_row, stored + 9);
      for (int i = 0; i < 8; i++) {
        sums[row][i] += weights[i][0] * x0 + weights[i][1] * x1 + weights[i][2] * x2 + weights[i][3] * x3;
      }
    }
  }

  // The four lanes of a g share their output features; then warp after warp.
  __shared__ float partial[kWarps][kRows][MILLRACE_TILE_N];
  for (int row = 0; row < kRows; row++) {
    for (int i = 0; i < 8; i++) {
      float sum = sums[row][i];
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      if (t == 0) partial[warp][row][16 * (i % 4) + 8 * (i / 4) + g] = sum;
    }
  }
  __syncthreads();
  __shared__ float total[kRows][MILLRACE_TILE_N];
  for (int i = threadIdx.x; i < kRows * MILLRACE_TILE_N; i += blockDim.x) {
    float sum = 0;
    for (int w = 0; w < kWarps; w++) sum += partial[w][i / MILLRACE_TILE_N][i % MILLRACE_TILE_N];
    total[i / MILLRACE_TILE_N][i % MILLRACE_TILE_N] = sum;
  }
  __syncthreads();

  for (int i = threadIdx.x; i < rows * MILLRACE_TILE_N; i += blockDim.x) {
    const int row = i / MILLRACE_TILE_N, feature = i % MILLRACE_TILE_N;
    const int n = blockIdx.x * MILLRACE_TILE_N + feature;
    if (n >= a.n) continue;
    if (a.epilogue == MILLRACE_SILU_MUL) {
      if (feature % 16 >= 8) continue;  // an up: its gate does the work
      const int out = n / 16 * 8 + n % 16;
      if (out >= a.intermediate) continue;
      const float gate = total[row][feature], up = total[row][feature + 8];
      const float value = gate / (1.0f + expf(-gate)) * up;
      // Saturated by comparisons, so that a NaN stays one.
      const float held = value > 65504.0f ? 65504.0f : value < -65504.0f ? -65504.0f : value;
      static_cast<__half*>(a.act)[static_cast<size_t>(first_row + row) * a.act_stride + out] = __float2half_rn(held);
    } else {
      float* y = a.y + static_cast<size_t>(first_row + row) * a.y_stride + n;
      *y = a.epilogue == MILLRACE_ADD ? *y + total[row][feature] : total[row][feature];
    }
  }
}
