// A kernel of your own in the place of experts_q4: one linear of a mixture's experts, 4-bit, for the rows that chose
// them. gemv_q4.cu has the tiles explained; here is what experts add.
//   nvcc --cubin -arch=sm_90 -std=c++17 -I ../../csrc/lab experts_q4.cu -o experts_q4.cubin
//   millrace bench kernel --op experts_q4 --shape qwen3-30b-a3b --cubin experts_q4.cubin --verify
//
// A thread block takes 64 output features of a listed expert, for one row of its tile after the other: simple, and slow
// where many rows chose an expert, since it reads the weights for each.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "millrace_kernel.h"

constexpr int kWarps = 8;

extern "C" __device__ const struct millrace_launch experts_q4_launch = {
    32 * kWarps,      // threads
    MILLRACE_TILE_N,  // features_per_block
    0,                // rows_per_block: the grid has a thread block a tile
    0,                // shared_bytes
    0,                // programmatic
    {0, 0, 0},
};

__device__ __half saturated(float value) {
  return __float2half_rn(value > 65504.0f ? 65504.0f : value < -65504.0f ? -65504.0f : value);
}

// What the warp's slices add to the lane's 8 output features, [4 h + j]: feature 16 j + 8 h + g of the row block.
__device__ void multiply(const millrace_experts& a, const unsigned char* row_block, const int32_t* permutation,
                         const __half* x, float (&sums)[8]) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int slices = a.k_stored / MILLRACE_TILE_K, group_slices = a.group / MILLRACE_TILE_K;
  const int header = MILLRACE_TILE_N * (a.zeros ? 3 : 2);
  const size_t group_bytes = header + static_cast<size_t>(group_slices) * MILLRACE_Q4_TILE_BYTES;
  for (int slice = warp; slice < slices; slice += kWarps) {
    const unsigned char* group = row_block + slice / group_slices * group_bytes;
    const unsigned char* tile = group + header + slice % group_slices * MILLRACE_Q4_TILE_BYTES;
    for (int i = 0; i < 8; i++) {
      const int j = i % 4, h = i / 4;
      const unsigned word = reinterpret_cast<const unsigned*>(tile)[lane * 4 + j];
      const unsigned short bits = reinterpret_cast<const unsigned short*>(group)[8 * g + i];
      const float scale = a.scale_type == MILLRACE_SCALE_F16 ? __half2float(__ushort_as_half(bits))
                                                             : __bfloat162float(__ushort_as_bfloat16(bits));
      const int zero = a.zeros ? group[2 * MILLRACE_TILE_N + 8 * g + i] : 8;
      for (int f = 0; f < 4; f++) {
        const int stored = slice * MILLRACE_TILE_K + 2 * t + 8 * (f / 2) + f % 2;
        const int feature = permutation != nullptr ? permutation[stored] : stored < a.k ? stored : MILLRACE_PADDING;
        if (feature == MILLRACE_PADDING) continue;
        const int q = word >> (4 * (h + 2 * (f / 2) + 4 * (f % 2))) & 15;
        sums[i] += scale * static_cast<float>(q - zero) * __half2float(x[feature]);
      }
    }
  }
}

extern "C" __global__ void __launch_bounds__(32 * kWarps) experts_q4(const millrace_experts a) {
  if (blockIdx.y >= *a.tile_count) return;
  const millrace_tile tile = a.tiles[blockIdx.y];
  // Wherever the expert is: in its slab, in a frame of the cache, or in memory of the host.
  const unsigned char* expert = a.addresses != nullptr
                                    ? a.addresses[tile.expert]
                                    : a.units[a.unit] + a.first + static_cast<size_t>(tile.expert) * a.stride;
  const int slices = a.k_stored / MILLRACE_TILE_K, group_slices = a.group / MILLRACE_TILE_K;
  const int groups = (slices + group_slices - 1) / group_slices;
  const size_t row_block_bytes = static_cast<size_t>(groups) * MILLRACE_TILE_N * (a.zeros ? 3 : 2) +
                                 static_cast<size_t>(slices) * MILLRACE_Q4_TILE_BYTES;
  const unsigned char* row_block = expert + a.matrix_offset + blockIdx.x * row_block_bytes;
  const auto* permutation = a.permuted ? reinterpret_cast<const int32_t*>(expert + a.permutation_offset) : nullptr;
  const auto* bias = a.bias_offset < 0 ? nullptr : reinterpret_cast<const float*>(expert + a.bias_offset);

  const int lane = threadIdx.x % 32, g = lane / 4;
  __shared__ float partial[kWarps][MILLRACE_TILE_N], total[MILLRACE_TILE_N];
  for (int row = 0; row < tile.rows; row++) {
    const int place = a.places[tile.first + row];
    const __half* x = static_cast<const __half*>(a.x) + static_cast<size_t>(place / a.x_divisor) * a.x_stride;
    float sums[8] = {};
    multiply(a, row_block, permutation, x, sums);
    for (int i = 0; i < 8; i++) {
      float sum = sums[i];
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      if (lane % 4 == 0) partial[threadIdx.x / 32][16 * (i % 4) + 8 * (i / 4) + g] = sum;
    }
    __syncthreads();
    const int within = threadIdx.x, n = blockIdx.x * MILLRACE_TILE_N + within;
    if (within < MILLRACE_TILE_N) {
      float sum = bias != nullptr && n < a.n ? bias[n] : 0;
      for (int w = 0; w < kWarps; w++) sum += partial[w][within];
      total[within] = sum;
    }
    __syncthreads();
    if (within >= MILLRACE_TILE_N || n >= a.n) continue;
    if (a.epilogue == MILLRACE_STORE) {
      a.y[static_cast<size_t>(place) * a.y_stride + n] = total[within];
      continue;
    }
    const int out = n / 16 * 8 + n % 16;
    if (within % 16 >= 8 || out >= a.intermediate) continue;  // an up: its gate does the work
    float gate = total[within], up = total[within + 8], value;
    if (a.epilogue == MILLRACE_CLAMPED_GLU) {
      gate = fminf(gate, a.limit);
      up = fminf(fmaxf(up, -a.limit), a.limit);
      value = gate / (1.0f + expf(-a.alpha * gate)) * (up + 1.0f);
    } else {
      value = gate / (1.0f + expf(-gate)) * up;
    }
    static_cast<__half*>(a.act)[static_cast<size_t>(place) * a.act_stride + out] = saturated(value);
  }
}
