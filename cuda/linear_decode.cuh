#pragma once
// linear_decode: y = x W^T for few activation rows, bound by the weights' way from HBM and, in a chain of launches, by
// the time from one launch's last byte to the next one's first sum.
//
// The order of sums. A row block (64 output features) is a list of chunks (up to Code::kSlices slices of 16 input
// features, one contiguous run of bytes, scales included). The 8 * `splits` warps of a cluster of `splits` thread
// blocks take chunks in turn; each adds its own in order, and the warps' sums are added in order: runs of `sum_warps`,
// then the runs of a block, then the blocks (linear_decode_wide_sm90.cu has a thread block for each such run):
//
//      chunks of a row block ->  0   1   2  ...  7 | 8   9  ...  15 | 16 ...       splits = 1: rounds of 8 chunks
//                        warp    0   1   2  ...  7 | 0   1  ...   7 | 0  ...
//
// A cluster does whole row blocks, one after the other, so nothing but the matrix's shape has part in a row's bits, and
// no partial sum goes through global memory. (A split of K among independent thread blocks was measured first: its
// fence, counter and read-back put 4 us into every launch of a chain.) Matrices of few row blocks take clusters of 2,
// whose sums meet in shared memory; GPUs without clusters always have splits = 1.
//
// Until the row block's end warps don't wait for one another. Each has a ring of chunks in shared memory, filled by
// bulk copies `stages` ahead, and one of x; two thread blocks fit an SM, so that the next launch's first weights come
// while this one sums (programmatic launch, `early`).
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda/code.cuh"
#include "cuda/common.cuh"
#include "cuda/linear.h"
#include "cuda/norm.cuh"

namespace millrace::cuda {

// What a launch needs to know, as the device sees it.
struct DecodeTask {
  const std::byte* const* units;
  int unit;
  bool early;
  bool leads, follows;  // LinearArguments
  bool permuted;
  bool bfloat16_scales;
  size_t matrix_offset;
  size_t permutation_offset;
  size_t row_block_bytes;
  int group_slices;      // q4
  int group_bytes;       // q4: of a full group block
  int chunks_per_group;  // q4 with groups that don't divide a chunk
  int slices;            // stored, of a row block
  int n, n_blocks;
  int chunks, rounds;    // of a row block; the chunks of a warp
  int step;              // from a warp's chunk to its next
  int stripes;           // clusters that share the row blocks
  int splits;            // thread blocks of a cluster; more than 1: each cluster has one row block
  int sum_warps;         // warps of a block whose sums are added first: 1, 2, 4, 8
  int tiles;             // of activation rows: blockIdx.x = (stripe * tiles + tile) * splits + rank
  int stages, x_stages;  // of a warp's rings
  int x_rows;            // of a stage of x
  const __half* x;
  int x_stride, k, rows;
  const float* norm_x;  // x is to be made of these rows
  size_t norm_offset;
  float norm_epsilon;
  LinearEpilogue epilogue;
  float* y;
  int y_stride;
  __half* act;
  int act_stride, intermediate;
};

// ---- Codes: how a chunk lies in memory and is multiplied. All addresses are of shared memory; B
// fragments come from x_lane[tile] + 32 * slice.

template <int TILES>
using Sums = float[TILES][4][4];  // [n8 tile][row block j][mma's d]: d[0..1] of feature g, d[2..3] of g + 8

// GROUP_SLICES: slices a group, of 1, 2, 4, 8; 0: any other number, a chunk lies within one group.
template <int GROUP_SLICES, bool ZEROS>
struct Q4Code {
  static constexpr int kSlices = chunk_slices(WeightType::q4);
  static constexpr int kGroup = GROUP_SLICES == 0 ? kSlices : GROUP_SLICES;
  static constexpr int kHeaderBytes = q4_header_bytes(ZEROS);
  static constexpr int kGroupBytes = kHeaderBytes + kGroup * static_cast<int>(kQ4TileBytes);
  static constexpr int kStageBytes = q4_chunk_bytes(GROUP_SLICES, ZEROS);
  static_assert(kStageBytes == kSlices / kGroup * kGroupBytes);

  static constexpr bool kHasTilesOf16 = true;
  // Whether chunk c lies at c * kStageBytes and all but the last of a row block are whole.
  static constexpr bool kRegular = GROUP_SLICES > 0;

  __device__ static int first_slice(const DecodeTask& task, int chunk) {
    if constexpr (GROUP_SLICES > 0) return chunk * kSlices;
    const int group = chunk / task.chunks_per_group;
    return group * task.group_slices + (chunk - group * task.chunks_per_group) * kSlices;
  }
  __device__ static int count(const DecodeTask& task, int chunk) {
    if constexpr (GROUP_SLICES > 0) return min(kSlices, task.slices - chunk * kSlices);
    const int group = chunk / task.chunks_per_group, first = group * task.group_slices;
    const int within = (chunk - group * task.chunks_per_group) * kSlices;
    return min(kSlices, min(task.group_slices, task.slices - first) - within);
  }
  // Where kRegular.
  __device__ static int chunk_bytes(const DecodeTask& task, int chunk) {
    const int n = count(task, chunk);
    return n == kSlices ? kStageBytes : (n + kGroup - 1) / kGroup * kHeaderBytes + n * static_cast<int>(kQ4TileBytes);
  }
  __device__ static void fetch(const DecodeTask& task, const std::byte* block, int chunk, uint32_t stage,
                               uint32_t barrier, int lane) {
    const int n = count(task, chunk);
    if constexpr (GROUP_SLICES > 0) {
      const int bytes = chunk_bytes(task, chunk);
      warp_copy_begin(barrier, bytes, lane);
      warp_copy(stage, block + static_cast<unsigned>(chunk) * kStageBytes, bytes, barrier, lane);
    } else {
      const int group = chunk / task.chunks_per_group;
      const int within = (chunk - group * task.chunks_per_group) * kSlices;
      const std::byte* header = block + static_cast<size_t>(group) * task.group_bytes;
      warp_copy_begin(barrier, kHeaderBytes + n * static_cast<int>(kQ4TileBytes), lane);
      warp_copy(stage, header, kHeaderBytes, barrier, lane);
      warp_copy(stage + kHeaderBytes, header + kHeaderBytes + within * kQ4TileBytes, n * static_cast<int>(kQ4TileBytes),
                barrier, lane);
    }
    warp_copy_end(barrier);
  }

  template <int TILES, bool FULL>
  __device__ static void multiply_slices(const DecodeTask& task, uint32_t stage, const uint32_t (&x_lane)[TILES], int n,
                                         int lane, Sums<TILES>& sums) {
    constexpr int kAhead = TILES == 1 && FULL ? kSlices : 2;  // slices whose operands are loaded together
    const uint32_t exponent = kept(0x64006400);
    float d[TILES][4][4];
    ZeroShift shifts[4];
#pragma unroll
    for (int begin = 0; begin < kSlices; begin += kAhead) {
      uint4 words[kAhead];
      uint32_t b[TILES][kAhead / 2][4];
#pragma unroll
      for (int a = 0; a < kAhead; a += 2) {
#pragma unroll
        for (int i = 0; i < TILES; i++) load_matrices_at(b[i][a / 2], x_lane[i] + (begin + a) * 32);
#pragma unroll
        for (int s = begin + a; s < begin + a + 2; s++) {
          words[s - begin] = load_shared_16(stage + s / kGroup * kGroupBytes + kHeaderBytes +
                                            s % kGroup * static_cast<int>(kQ4TileBytes) + lane * 16);
        }
      }
#pragma unroll
      for (int s = begin; s < begin + kAhead; s++) {
        const uint32_t header = stage + s / kGroup * kGroupBytes;
        if (s % kGroup == 0) {
          uint2 zeros;
          if constexpr (ZEROS) zeros = load_shared_8(header + 128 + lane / 4 * 8);
#pragma unroll
          for (int j = 0; j < 4; j++) {
            if constexpr (ZEROS) {
              shifts[j] = nibble_shift((zeros.x >> (8 * j)) & 0xff, (zeros.y >> (8 * j)) & 0xff);
            } else {
              shifts[j] = nibble_shift(8, 8);
            }
#pragma unroll
            for (int i = 0; i < TILES; i++) {
#pragma unroll
              for (int c = 0; c < 4; c++) d[i][j][c] = 0;
            }
          }
        }
        const uint32_t word[4] = {words[s - begin].x, words[s - begin].y, words[s - begin].z, words[s - begin].w};
        const int h = s % 2 * 2;
#pragma unroll
        for (int j = 0; j < 4; j++) {
          uint32_t a[4];
          nibble_registers(word[j], exponent, shifts[j], a);
#pragma unroll
          for (int i = 0; i < TILES; i++) {
            const uint32_t(&x)[4] = b[i][(s - begin) / 2];
            mma_m16n8k16(d[i][j], a[0], a[1], a[2], a[3], x[h], x[h + 1]);
          }
        }
        const bool end = !FULL && s + 1 >= n;
        if ((s + 1) % kGroup == 0 || end) {  // lane g's eight scales: [half][j]
          float scales[8];
          load_halves<8>(header, {lane}, task.bfloat16_scales, scales);
#pragma unroll
          for (int half = 0; half < 2; half++) {
#pragma unroll
            for (int j = 0; j < 4; j++) {
              const float scale = scales[half * 4 + j];
#pragma unroll
              for (int i = 0; i < TILES; i++) {
#pragma unroll
                for (int c = 2 * half; c < 2 * half + 2; c++) sums[i][j][c] = fmaf(scale, d[i][j][c], sums[i][j][c]);
              }
            }
          }
        }
        if (end) return;
      }
    }
  }

  template <int TILES>
  __device__ static void multiply_whole(const DecodeTask& task, uint32_t stage, const uint32_t (&x_lane)[TILES],
                                        int lane, Sums<TILES>& sums) {
    multiply_slices<TILES, true>(task, stage, x_lane, kSlices, lane, sums);
  }
  // Where kRegular, of a chunk that is not whole.
  template <int TILES>
  __device__ static void multiply(const DecodeTask& task, uint32_t stage, const uint32_t (&x_lane)[TILES], int chunk,
                                  int lane, Sums<TILES>& sums) {
    const int n = count(task, chunk);
    if (!kRegular && n == kSlices) {
      multiply_slices<TILES, true>(task, stage, x_lane, n, lane, sums);
    } else {
      multiply_slices<TILES, false>(task, stage, x_lane, n, lane, sums);
    }
  }
};

// Every other grouped code (model/code.h): groups divide a chunk, and a chunk is a span where the code has spans.
// Minimums are multiplied with the sums of x, which a product with ones makes.
template <WeightType TYPE, int GROUP_SLICES, bool ZEROS = false>
struct GroupCode {
  static constexpr Code kCode = code_of(TYPE);
  static constexpr int kSlices = chunk_slices(TYPE);
  static constexpr int kGroup = GROUP_SLICES;
  static constexpr int kSpanBytes = kCode.span_bytes();
  static constexpr int kHeaderBytes = kCode.header_bytes(ZEROS);
  static constexpr int kTileBytes = kCode.tile_bytes();
  static constexpr int kGroupBytes = kHeaderBytes + kGroup * kTileBytes;
  static constexpr int kStageBytes = group_chunk_bytes(TYPE, GROUP_SLICES, ZEROS);
  static_assert(kSlices % kGroup == 0 && kStageBytes == kSpanBytes + kSlices / kGroup * kGroupBytes);
  static_assert(kSpanBytes == 0 || kSlices * kTileK == kCode.span());
  using Weights = Tile<kCode.bits, kCode.levels>;
  static constexpr bool kFactored = kCode.offsets == Offsets::two_level;

  static constexpr bool kRegular = true, kHasTilesOf16 = has_tiles_of_16(TYPE);
  __device__ static int first_slice(const DecodeTask&, int chunk) { return chunk * kSlices; }
  __device__ static int count(const DecodeTask& task, int chunk) { return min(kSlices, task.slices - chunk * kSlices); }
  __device__ static int chunk_bytes(const DecodeTask& task, int chunk) {
    const int n = count(task, chunk);
    return kSpanBytes + (n + kGroup - 1) / kGroup * kHeaderBytes + n * kTileBytes;
  }

  __device__ static __forceinline__ void registers(const Weights& tile, int j, uint32_t exponent,
                                                   const ZeroShift& shift, uint32_t (&a)[4]) {
    if constexpr (kCode.levels == Levels::table) {
      tile.template registers<TYPE>(j, exponent, shift, a);
    } else {
      tile.registers(j, exponent, shift, a);
    }
  }

  template <int TILES, bool FULL>
  __device__ static void multiply_slices(const DecodeTask& task, uint32_t stage, const uint32_t (&x_lane)[TILES], int n,
                                         int lane, Sums<TILES>& sums) {
    constexpr int kZero = kCode.levels == Levels::table ? kTableZero : kCode.zero;
    constexpr uint32_t kOnes = 0x3c003c00;
    const uint32_t exponent = kept(0x64006400);
    Span<TYPE, 8> span;
    span.load(stage, {lane});
    float d[TILES][4][4], x_sums[TILES][4];
    ZeroShift shifts[4];
#pragma unroll
    for (int begin = 0; begin < kSlices; begin += 2) {
      Weights tiles[2];
      uint32_t b[TILES][4];
#pragma unroll
      for (int i = 0; i < TILES; i++) load_matrices_at(b[i], x_lane[i] + begin * 32);
#pragma unroll
      for (int s = begin; s < begin + 2; s++) {
        tiles[s - begin].load(stage + kSpanBytes + s / kGroup * kGroupBytes + kHeaderBytes + s % kGroup * kTileBytes,
                              lane);
      }
#pragma unroll
      for (int s = begin; s < begin + 2; s++) {
        const uint32_t header = stage + kSpanBytes + s / kGroup * kGroupBytes;
        const uint32_t offsets = header + kTileN * kCode.scale_bytes();
        const bool first = s % kGroup == 0;
        if (first) {
          if constexpr (ZEROS) {
            const Bytes<8> zeros(offsets, {lane});
#pragma unroll
            for (int j = 0; j < 4; j++) shifts[j] = Weights::shift(zeros[j], zeros[4 + j]);
          } else {
#pragma unroll
            for (int j = 0; j < 4; j++) shifts[j] = Weights::shift(kZero, kZero);
          }
        }
        const int h = s % 2 * 2;
#pragma unroll
        for (int j = 0; j < 4; j++) {
          uint32_t a[4];
          registers(tiles[s - begin], j, exponent, shifts[j], a);
#pragma unroll
          for (int i = 0; i < TILES; i++) {
            if (first) {
              mma_m16n8k16_first(d[i][j], a[0], a[1], a[2], a[3], b[i][h], b[i][h + 1]);
            } else {
              mma_m16n8k16(d[i][j], a[0], a[1], a[2], a[3], b[i][h], b[i][h + 1]);
            }
          }
        }
        if constexpr (kFactored) {
          const uint32_t picked = lane / 4 == s / kGroup ? kOnes : 0;
#pragma unroll
          for (int i = 0; i < TILES; i++) {
            if (s == 0) {
              mma_m16n8k16_first(x_sums[i], b[i][h], 0, b[i][h + 1], 0, picked, picked);
            } else {
              mma_m16n8k16(x_sums[i], b[i][h], 0, b[i][h + 1], 0, picked, picked);
            }
          }
        } else if constexpr (kCode.minimums()) {
#pragma unroll
          for (int i = 0; i < TILES; i++) {
            if (first) {
              mma_m16n8k16_first(x_sums[i], kOnes, kOnes, kOnes, kOnes, b[i][h], b[i][h + 1]);
            } else {
              mma_m16n8k16(x_sums[i], kOnes, kOnes, kOnes, kOnes, b[i][h], b[i][h + 1]);
            }
          }
        }
        const bool end = !FULL && s + 1 >= n;
        if ((s + 1) % kGroup == 0 || end) {
          float scales[8], minimums[8];
          load_scales<TYPE, 8>(header, {lane}, task.bfloat16_scales, span, scales);
          if constexpr (kTileUnit<TYPE> != 1.0f) {
#pragma unroll
            for (int i = 0; i < 8; i++) scales[i] *= kTileUnit<TYPE>;
          }
          if constexpr (kCode.minimums() && !kFactored) load_minimums<TYPE, 8>(offsets, {lane}, span, minimums);
#pragma unroll
          for (int j = 0; j < 4; j++) {
#pragma unroll
            for (int i = 0; i < TILES; i++) {
#pragma unroll
              for (int c = 0; c < 4; c++) {
                sums[i][j][c] = fmaf(scales[c / 2 * 4 + j], d[i][j][c], sums[i][j][c]);
                if constexpr (kCode.minimums() && !kFactored) {
                  sums[i][j][c] = fmaf(minimums[c / 2 * 4 + j], x_sums[i][c], sums[i][j][c]);
                }
              }
            }
          }
        }
        if (end) break;
      }
      if (!FULL && begin + 2 >= n) break;
    }
    if constexpr (kFactored) add_minimums<TILES>(stage, lane, span.minimums.number, x_sums, sums);
  }

  // Minimums of a chunk's groups at once, where they are a number of the span times small integers: these are an A
  // operand of one product more, with the groups as k; sums of x its B operand in two float16 terms, as they come out
  // of products with x as A and, as B, ones in the group's column. (Group by group, in float32: a layer of
  // an 8B of q4_k took 50.2 us in place of 48.0.) x_sums[i]: of row lane / 4, groups 2 (lane % 4) and the next.
  template <int TILES>
  __device__ static __forceinline__ void add_minimums(uint32_t stage, int lane, const float (&numbers)[8],
                                                      const float (&x_sums)[TILES][4], Sums<TILES>& sums) {
    constexpr int kGroups = kSlices / kGroup;
    constexpr float kUnit = 32.0f;  // of sums of x: as float16 they stay finite
    uint32_t hi[TILES], lo[TILES];
#pragma unroll
    for (int i = 0; i < TILES; i++) {
      const float2 sum = {x_sums[i][0] * (1 / kUnit), x_sums[i][1] * (1 / kUnit)};
      const __half2 high = __float22half2_rn(sum);
      const __half2 low = __floats2half2_rn(sum.x - __low2float(high), sum.y - __high2float(high));
      hi[i] = *reinterpret_cast<const uint32_t*>(&high);
      lo[i] = *reinterpret_cast<const uint32_t*>(&low);
    }
    // Beyond the last group sums are 0, and any integers do.
    const uint32_t column = stage + kSpanBytes + kTileN * kCode.scale_bytes();
    const Bytes<8> even(column + 2 * lane % kGroups * kGroupBytes, {lane});
    const Bytes<8> odd(column + (2 * lane + 1) % kGroups * kGroupBytes, {lane});
#pragma unroll
    for (int j = 0; j < 4; j++) {
      uint32_t a[2];
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const uint32_t pair =
            __byte_perm(even.words[half] ^ 0x80808080, odd.words[half] ^ 0x80808080, j | (4 + j) << 8);
        a[half] = add_half2(and_or(pair, 0x00ff00ff, 0x64006400), 0xe480e480);  // less 1024 + 128
      }
#pragma unroll
      for (int i = 0; i < TILES; i++) {
        float d[4];
        mma_m16n8k16_first(d, a[0], a[1], a[0], a[1], hi[i], lo[i]);
#pragma unroll
        for (int c = 0; c < 4; c++) sums[i][j][c] = fmaf(numbers[c / 2 * 4 + j] * kUnit, d[c], sums[i][j][c]);
      }
    }
  }

  template <int TILES>
  __device__ static void multiply_whole(const DecodeTask& task, uint32_t stage, const uint32_t (&x_lane)[TILES],
                                        int lane, Sums<TILES>& sums) {
    multiply_slices<TILES, true>(task, stage, x_lane, kSlices, lane, sums);
  }
  template <int TILES>
  __device__ static void multiply(const DecodeTask& task, uint32_t stage, const uint32_t (&x_lane)[TILES], int chunk,
                                  int lane, Sums<TILES>& sums) {
    multiply_slices<TILES, false>(task, stage, x_lane, count(task, chunk), lane, sums);
  }
};

// High and low half of a pair of numbers as bfloat16: of float16 pairs the two are exact, of float32 a third is.
struct SplitPair {
  uint32_t high, low;
};
__device__ __forceinline__ uint32_t take_bf16(float2& v) {
  const __nv_bfloat162 high = __float22bfloat162_rn(v);
  v.x -= __low2float(high);
  v.y -= __high2float(high);
  return *reinterpret_cast<const uint32_t*>(&high);
}
__device__ __forceinline__ SplitPair split_half2(uint32_t bits) {
  float2 v = __half22float2(*reinterpret_cast<const __half2*>(&bits));
  SplitPair p;
  p.high = take_bf16(v);
  p.low = take_bf16(v);
  return p;
}

// Float weights. bfloat16 and float32 are multiplied as sums of bfloat16 terms: x in two (exact), float32 weights in
// three, of which the product of the two least is left out (relative 2^-24).
template <WeightType TYPE>
struct FloatCode {
  static constexpr int kSlices = chunk_slices(TYPE);
  static constexpr int kTileBytes = float_tile_bytes(TYPE);
  static constexpr int kStageBytes = kSlices * kTileBytes;
  static constexpr bool kRegular = false, kHasTilesOf16 = true;

  __device__ static int first_slice(const DecodeTask&, int chunk) { return chunk * kSlices; }
  __device__ static void fetch(const DecodeTask& task, const std::byte* block, int chunk, uint32_t stage,
                               uint32_t barrier, int lane) {
    const int bytes = min(kSlices, task.slices - chunk * kSlices) * kTileBytes;
    warp_copy_begin(barrier, bytes, lane);
    warp_copy(stage, block + static_cast<size_t>(chunk) * kSlices * kTileBytes, bytes, barrier, lane);
    warp_copy_end(barrier);
  }
  template <int TILES>
  __device__ static void multiply(const DecodeTask& task, uint32_t stage, const uint32_t (&x_lane)[TILES], int chunk,
                                  int lane, Sums<TILES>& sums) {
    const int n = min(kSlices, task.slices - chunk * kSlices);
    uint32_t b[TILES][4];
#pragma unroll
    for (int i = 0; i < TILES; i++) load_matrices_at(b[i], x_lane[i]);
#pragma unroll
    for (int s = 0; s < kSlices; s++) {
      if (s >= n) break;
      const int h = 2 * s;
      SplitPair x[TILES][2];
      if constexpr (TYPE != WeightType::f16) {
#pragma unroll
        for (int i = 0; i < TILES; i++) {
          x[i][0] = split_half2(b[i][h]);
          x[i][1] = split_half2(b[i][h + 1]);
        }
      }
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const uint32_t at = stage + s * kTileBytes + (j * 32 + lane) * (kTileBytes / 128);
        if constexpr (TYPE == WeightType::f16) {
          const uint4 a = load_shared_16(at);
#pragma unroll
          for (int i = 0; i < TILES; i++) mma_m16n8k16(sums[i][j], a.x, a.y, a.z, a.w, b[i][h], b[i][h + 1]);
        } else if constexpr (TYPE == WeightType::bf16) {
          const uint4 a = load_shared_16(at);
#pragma unroll
          for (int i = 0; i < TILES; i++) {
            mma_m16n8k16_bf16(sums[i][j], a.x, a.y, a.z, a.w, x[i][0].low, x[i][1].low);
            mma_m16n8k16_bf16(sums[i][j], a.x, a.y, a.z, a.w, x[i][0].high, x[i][1].high);
          }
        } else {
          const uint4 v0 = load_shared_16(at), v1 = load_shared_16(at + 16);
          float2 v[4] = {{__uint_as_float(v0.x), __uint_as_float(v0.y)},
                         {__uint_as_float(v0.z), __uint_as_float(v0.w)},
                         {__uint_as_float(v1.x), __uint_as_float(v1.y)},
                         {__uint_as_float(v1.z), __uint_as_float(v1.w)}};
          uint32_t a[3][4];
#pragma unroll
          for (int part = 0; part < 3; part++) {
#pragma unroll
            for (int r = 0; r < 4; r++) a[part][r] = take_bf16(v[r]);
          }
#pragma unroll
          for (int i = 0; i < TILES; i++) {
#pragma unroll
            for (int part = 2; part >= 0; part--) {
              const uint32_t(&w)[4] = a[part];
              if (part < 2) mma_m16n8k16_bf16(sums[i][j], w[0], w[1], w[2], w[3], x[i][0].low, x[i][1].low);
              mma_m16n8k16_bf16(sums[i][j], w[0], w[1], w[2], w[3], x[i][0].high, x[i][1].high);
            }
          }
        }
      }
    }
  }
};

// ---- Epilogues

__device__ __forceinline__ __half saturated_half(float v) {
  return __float2half_rn(v != v ? v : fminf(fmaxf(v, -65504.0f), 65504.0f));
}
__device__ __forceinline__ void put_act(const DecodeTask& task, int row, int feature, float gate, float up) {
  if (feature >= task.intermediate) return;
  task.act[static_cast<size_t>(row) * task.act_stride + feature] = saturated_half(gate / (1.0f + expf(-gate)) * up);
}

// ---- The kernel

template <class Code, int TILES>
__global__ void __launch_bounds__(kDecodeThreads, PortableShape::residents_of(8 * TILES))
    linear_decode_kernel(const __grid_constant__ DecodeTask task) {
  constexpr int kPitch = PortableShape::x_pitch(Code::kSlices);
  constexpr int kRows = 8 * TILES;
  constexpr int kChunkK = Code::kSlices * kTileK;
  constexpr int kStage = Code::kStageBytes;
  constexpr int kSlot = slot_bytes(kStage);  // of the ring, for a chunk
  extern __shared__ __align__(128) std::byte shared[];

  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  const int warp = __shfl_sync(~0u, thread / 32, 0);  // the same for all lanes, as the compiler can see
  const int rank = task.splits > 1 ? static_cast<int>(cluster_rank()) : 0;
  const int cluster = static_cast<int>(blockIdx.x) / task.splits;
  const int stripe = cluster / task.tiles, tile = cluster % task.tiles;
  const int row_begin = tile * kRows, rows = min(kRows, task.rows - row_begin);
  const int first_chunk = rank * kDecodeWarps + warp;  // of a row block
  const int first_block = stripe * task.n_blocks / task.stripes;
  const int end_block = (stripe + 1) * task.n_blocks / task.stripes;

  // Shared memory: rings of weights, of x, other blocks' sums, barriers.
  const int stages = task.stages, x_stages = task.x_stages;
  const int x_stage_bytes = task.x_rows * kPitch;
  const uint32_t base = shared_address(shared);
  const uint32_t ring = base + warp * stages * kSlot;
  const uint32_t x_ring = base + kDecodeWarps * stages * kSlot + warp * x_stages * x_stage_bytes;
  const uint32_t others = base + kDecodeWarps * (stages * kSlot + x_stages * x_stage_bytes);
  const uint32_t barriers = others + (task.splits - 1) * TILES * 2048 + warp * (stages + x_stages) * 8;
  const uint32_t x_barriers = barriers + stages * 8;
  const uint32_t others_barrier = others + (task.splits - 1) * TILES * 2048 + kDecodeWarps * (stages + x_stages) * 8;

  if (lane == 0) {
#pragma unroll 1
    for (int i = 0; i < stages; i++) warp_copy_init(barriers + 8 * i);
#pragma unroll 1
    for (int i = 0; i < x_stages; i++) lane_copies_init(x_barriers + 8 * i);
    if (warp == 0) warp_copy_init(others_barrier);
    warp_copy_init_fence();
  }
  __syncwarp();
  if (!task.early) wait_for_predecessor();

  const std::byte* slab = task.units[task.unit];

  // The next round of weights into stage `slot`. Every branch between two chunks' products is latency that the few
  // warps of an SM can't hide: where a row of chunks is regular, only a warp's last chunk of a row block may be less
  // than whole, or not there (`ragged`), and counts run down to zero.
  const int last_chunk = first_chunk + (task.rounds - 1) * task.step;
  const int ragged = last_chunk < task.slices / Code::kSlices ? 0 : 1;
  uint32_t ragged_bytes = 0;
  if constexpr (Code::kRegular) {
    if (last_chunk < task.chunks) ragged_bytes = Code::chunk_bytes(task, last_chunk);
  }
  int to_fetch = (end_block - first_block) * task.rounds, ahead_left = task.rounds, ahead_chunk = first_chunk;
  const std::byte* ahead =
      slab + task.matrix_offset + static_cast<uint64_t>(static_cast<unsigned>(first_block)) * task.row_block_bytes;
  if (Code::kRegular) ahead += static_cast<unsigned>(first_chunk * kStage);
  const uint32_t ahead_step = task.step * kStage;
  const int64_t ahead_turn = static_cast<int64_t>(task.row_block_bytes) -
                             (Code::kRegular ? static_cast<int64_t>(task.rounds) * ahead_step : 0);
  const auto fetch = [&](int slot) {
    if (to_fetch == 0) return;
    to_fetch--;
    const uint32_t barrier = barriers + 8 * slot, stage = ring + slot * kSlot;
    if constexpr (Code::kRegular) {
      warp_copy_all(stage, ahead, ahead_left > ragged ? uint32_t{kStage} : ragged_bytes, barrier, lane);
      ahead += ahead_step;
    } else {
      if (ahead_chunk < task.chunks) {
        Code::fetch(task, ahead, ahead_chunk, stage, barrier, lane);
      } else {  // the count of rounds goes on
        warp_copy_begin(barrier, 0, lane);
        warp_copy_end(barrier);
      }
      ahead_chunk += task.step;
    }
    if (--ahead_left == 0) {
      ahead_left = task.rounds;
      ahead += ahead_turn;
      ahead_chunk = first_chunk;
    }
  };
#pragma unroll 1
  for (int i = 0; i < stages; i++) fetch(i);
  __syncwarp();

  if (!task.leads) allow_successor();
  if (task.splits > 1) {  // all sums of the other blocks, of all passes, complete one round of this barrier
    if (warp == 0 && rank == 0) warp_copy_begin(others_barrier, (task.splits - 1) * TILES * 2048, lane);
    __syncwarp();
    cluster_arrive_relaxed();
  }
  // x of all chunks at once, where this launch norms it.
  constexpr bool kNorms = TILES == 1;
  const uint32_t normed = (others_barrier + 8 + 15) / 16 * 16, normed_pitch = norm_pitch(task.slices);
  const bool norms = kNorms && task.norm_x != nullptr;
  if (kNorms && norms) {
    const uint32_t normed_sums = normed + task.x_rows * normed_pitch;
    NormRows norm(reinterpret_cast<const float*>(slab + task.norm_offset), task.k);
    if (task.early && !task.follows) wait_for_predecessor();
#pragma unroll 1
    for (int row = 0; row < rows; row++) {
      norm.row(task.norm_x + static_cast<size_t>(row_begin + row) * task.k, task.norm_epsilon, normed_sums,
               normed + row * normed_pitch, task.slices * kTileK);
    }
    __syncthreads();
  } else if (task.early && !task.follows) {
    wait_for_predecessor();
  }
  if (task.leads) allow_successor();

  // The next round of x into stage `slot`.
  int x_blocks = end_block - first_block, x_chunk = first_chunk;
  const __half* x_rows = task.x + static_cast<size_t>(row_begin) * task.x_stride;
  const auto fetch_x = [&](int slot) {
    if (x_blocks == 0) return;
    if (x_chunk < task.chunks) {
      const int first = Code::first_slice(task, x_chunk) * kTileK;
      uint32_t to = x_ring + slot * x_stage_bytes;
      if (!task.permuted) {
        constexpr int kPieces = kChunkK / 8, kStep = 32 / kPieces;  // of 8 input features
        const int k = first + lane % kPieces * 8, bytes = max(0, min(16, (task.k - k) * 2));
        const __half* from = x_rows + static_cast<size_t>(lane / kPieces) * task.x_stride + (bytes > 0 ? k : 0);
        to += lane / kPieces * kPitch + lane % kPieces * 16;
#pragma unroll 1
        for (int row = lane / kPieces; row < rows; row += kStep) {
          copy_part_async_at(to, from, bytes);
          from += kStep * task.x_stride;
          to += kStep * kPitch;
        }
      } else {
        const int32_t* permutation = reinterpret_cast<const int32_t*>(slab + task.permutation_offset);
        constexpr int kLaneK = (kChunkK + 31) / 32;
        int from[kLaneK];
#pragma unroll
        for (int e = 0; e < kLaneK; e++) {
          const int within = lane + 32 * e;
          from[e] = within < kChunkK && first + within < task.slices * kTileK ? permutation[first + within] : kPadding;
        }
#pragma unroll 2
        for (int row = 0; row < rows; row++) {
#pragma unroll
          for (int e = 0; e < kLaneK; e++) {
            if (lane + 32 * e >= kChunkK) continue;
            const __half v =
                from[e] < 0 ? __ushort_as_half(0) : __ldcg(x_rows + static_cast<size_t>(row) * task.x_stride + from[e]);
            store_shared_2(to + row * kPitch + (lane + 32 * e) * 2, __half_as_ushort(v));
          }
        }
      }
    }
    lane_copies_end(x_barriers + 8 * slot);
    x_chunk += task.step;
    if (x_chunk >= first_chunk + task.rounds * task.step) {
      x_chunk = first_chunk;
      x_blocks--;
    }
  };
  // Where the ring holds all rounds of a row block, it is filled once: all row blocks have the same x.
  const bool x_stays = x_stages >= task.rounds;
#pragma unroll 1
  for (int i = 0; i < (norms ? 0 : x_stays ? task.rounds : x_stages - 1); i++) fetch_x(i);

  // Where this lane's addresses of B fragments begin; columns beyond the rows repeat the last row and are never stored.
  uint32_t x_first[TILES];
#pragma unroll
  for (int i = 0; i < TILES; i++) {
    const int row = min(8 * i + lane % 8, rows - 1);
    x_first[i] = (norms ? normed + row * normed_pitch : x_ring + row * kPitch) +
                 (Code::kSlices == 1 ? lane / 8 % 2 : lane / 8) * 16;
  }

  // What a thread stores at a row block's end: of tile i features 16 j + g and 16 j + 8 + g, rows 2 t and 2 t + 1.
  constexpr int kPass = TILES < 2 ? TILES : 2;
  const int out_tile = thread / 128, j = thread / 32 % 4, g = lane / 4, t = lane % 4;
  const auto out_row = [&](int pass, int c) { return (pass + out_tile) * 8 + 2 * t + c % 2; };

  Sums<TILES> sums = {};
  const bool x_moves = !x_stays && !norms;
  bool x_waits = !norms;
  const uint32_t x_step = norms ? task.step * kChunkK * 2 : x_stage_bytes;
  int slot = 0, x_slot = 0;
  uint32_t parity = 0, x_parity = 0;
#pragma unroll 1
  for (int block = first_block; block < end_block; block++) {
    const int out_n = block * kTileN + 16 * j + g;
    const auto stored = [&](int pass, int c) {
      return out_tile < kPass && out_row(pass, c) < rows && out_n + c / 2 * 8 < task.n;
    };
    const auto out_y = [&](int pass, int c) {
      return task.y + static_cast<size_t>(row_begin + out_row(pass, c)) * task.y_stride + out_n + c / 2 * 8;
    };
    float addend[4] = {};
    const auto load_addends = [&](int pass) {
#pragma unroll
      for (int c = 0; c < 4; c++) {
        if (stored(pass, c)) addend[c] = __ldcg(out_y(pass, c));
      }
    };
    const bool adds = task.epilogue == LinearEpilogue::add && rank == 0;
    if (adds) load_addends(0);  // on its way during the sums

    uint32_t stage = ring + slot * kSlot;
    uint32_t x_at = norms ? Code::first_slice(task, first_chunk) * kTileK * 2 : x_slot * x_stage_bytes;
#pragma unroll 1
    for (int chunk = first_chunk, left = task.rounds; left > 0; left--, chunk += task.step) {
      if (x_moves) fetch_x(x_slot == 0 ? x_stages - 1 : x_slot - 1);
      if (x_waits) warp_copy_wait(x_barriers + 8 * x_slot, x_parity);
      stage = ring + slot * kSlot;
      warp_copy_wait(barriers + 8 * slot, parity);
      __syncwarp();
      uint32_t x_lane[TILES];
      if (!Code::kRegular && norms) x_at = Code::first_slice(task, chunk) * kTileK * 2;
#pragma unroll
      for (int i = 0; i < TILES; i++) x_lane[i] = x_first[i] + x_at;
      const bool whole = Code::kRegular && left > ragged;
      if constexpr (Code::kRegular) {
        if (whole) Code::template multiply_whole<TILES>(task, stage, x_lane, lane, sums);
      }
      if (!whole && chunk < task.chunks) Code::template multiply<TILES>(task, stage, x_lane, chunk, lane, sums);
      __syncwarp();  // the lanes are done with the round: its stages are free
      if (left > 1) fetch(slot);
      if (++slot == stages) {
        slot = 0;
        parity ^= 1;
      }
      x_at += x_step;
      if (++x_slot == x_stages && x_moves) {
        x_slot = 0;
        x_at = 0;
        x_parity ^= 1;
      }
    }
    if (!x_moves) {
      x_slot = 0;
      x_waits = false;
    }
    const int last_slot = slot == 0 ? stages - 1 : slot - 1;

    {
      if (task.splits > 1) cluster_wait();  // all of the cluster run, so that their shared memory may be written
        // The warps' sums meet in the stage that each has used last, whose refill waits for that.
#pragma unroll
      for (int pass = 0; pass < TILES; pass += kPass) {
        __syncwarp();
#pragma unroll
        for (int i = 0; i < kPass; i++) {
#pragma unroll
          for (int k = 0; k < 4; k++) {
            const float(&d)[4] = sums[pass + i][k];
            store_shared_16(stage + ((i * 4 + k) * 32 + lane) * 16, {__float_as_uint(d[0]), __float_as_uint(d[1]),
                                                                     __float_as_uint(d[2]), __float_as_uint(d[3])});
          }
        }
        if (pass > 0 && adds) load_addends(pass);
        __syncthreads();
        float v[4] = {}, some[4] = {};
        if (out_tile < kPass) {
          const uint32_t from = base + last_slot * kSlot + thread * 16;
#pragma unroll
          for (int w = 0; w < kDecodeWarps; w++) {
            const uint4 part = load_shared_16(from + w * stages * kSlot);
            some[0] += __uint_as_float(part.x);
            some[1] += __uint_as_float(part.y);
            some[2] += __uint_as_float(part.z);
            some[3] += __uint_as_float(part.w);
            if (((w + 1) & (task.sum_warps - 1)) == 0) {
#pragma unroll
              for (int c = 0; c < 4; c++) {
                v[c] += some[c];
                some[c] = 0;
              }
            }
          }
        }
        if (task.splits > 1) {
          const uint32_t slots = others + (pass * 128 + thread) * 16;
          if (rank > 0 && out_tile < kPass) {
            store_cluster_counted_16(0, slots + (rank - 1) * TILES * 2048, others_barrier, {v[0], v[1], v[2], v[3]});
          }
          if (rank == 0) warp_copy_wait(others_barrier, 0);
          if (rank == 0 && out_tile < kPass) {
            for (int other = 0; other < task.splits - 1; other++) {
              const uint4 part = load_shared_16(slots + other * TILES * 2048);
              v[0] += __uint_as_float(part.x);
              v[1] += __uint_as_float(part.y);
              v[2] += __uint_as_float(part.z);
              v[3] += __uint_as_float(part.w);
            }
          }
        }
        if (rank == 0) {
          if (task.epilogue == LinearEpilogue::silu_mul) {
#pragma unroll
            for (int c = 0; c < 2; c++) {
              if (stored(pass, c)) {
                put_act(task, row_begin + out_row(pass, c), (block * 4 + j) * 8 + g, v[c], v[2 + c]);
              }
            }
          } else {
#pragma unroll
            for (int c = 0; c < 4; c++) {
              if (stored(pass, c)) *out_y(pass, c) = addend[c] + v[c];
            }
          }
        }
        if (pass + kPass == TILES && block + 1 == end_block) {  // nobody fetches any more
          if (task.follows) wait_for_predecessor();
          return;
        }
        warp_copy_fence();
        __syncthreads();
      }
#pragma unroll
      for (int i = 0; i < TILES; i++) {
#pragma unroll
        for (int k = 0; k < 4; k++) {
#pragma unroll
          for (int c = 0; c < 4; c++) sums[i][k][c] = 0;
        }
      }
    }
    fetch(last_slot);  // this row block's last stage, which the sums have left
  }
}

// ---- Launch, in linear_decode_q4.cu, linear_decode_float.cu and linear_decode_{q8,k,table}.cu

// linear_decode by a plan of one's own: for benchmarks that look for a better one.
cudaError_t linear_decode_tuned(const LinearArguments& arguments, const DecodeTuning& tuning, cudaStream_t stream,
                                bool programmatic);

cudaError_t launch_decode_q4(const DecodeTask& task, bool zeros, const DecodePlan& plan, cudaStream_t stream,
                             bool programmatic);
cudaError_t launch_decode_float(const DecodeTask& task, WeightType type, const DecodePlan& plan, cudaStream_t stream,
                                bool programmatic);
// Codes of 8 bits; of ggml's integers; of tables.
cudaError_t launch_decode_q8(const DecodeTask& task, const MatrixCode& code, const DecodePlan& plan,
                             cudaStream_t stream, bool programmatic);
cudaError_t launch_decode_k(const DecodeTask& task, const MatrixCode& code, const DecodePlan& plan, cudaStream_t stream,
                            bool programmatic);
cudaError_t launch_decode_table(const DecodeTask& task, const MatrixCode& code, const DecodePlan& plan,
                                cudaStream_t stream, bool programmatic);
cudaError_t prepare_decode_q4();
cudaError_t prepare_decode_float();
cudaError_t prepare_decode_q8();
cudaError_t prepare_decode_k();
cudaError_t prepare_decode_table();

template <class Code, int TILES>
cudaError_t prepare_decode_kernel() {
  return allow_shared_memory(reinterpret_cast<const void*>(linear_decode_kernel<Code, TILES>), 0, true);
}

template <class Code>
cudaError_t launch_decode_code(const DecodeTask& task, const DecodePlan& plan, cudaStream_t stream, bool programmatic) {
  switch (plan.tile_rows) {
    case 8:
      return launch_planned(plan.launch, linear_decode_kernel<Code, 1>, stream, programmatic, task);
    case 16:
      if constexpr (Code::kHasTilesOf16) {
        return launch_planned(plan.launch, linear_decode_kernel<Code, 2>, stream, programmatic, task);
      }
      break;
    case 32:
      return launch_planned(plan.launch, linear_decode_kernel<Code, 4>, stream, programmatic, task);
  }
  return cudaErrorInvalidConfiguration;
}
template <class... Codes>
cudaError_t prepare_decode_codes() {
  cudaError_t status = cudaSuccess;
  const auto prepare = [&]<class Code>() {
    if (status == cudaSuccess) status = prepare_decode_kernel<Code, 1>();
    if constexpr (Code::kHasTilesOf16) {
      if (status == cudaSuccess) status = prepare_decode_kernel<Code, 2>();
    }
    if (status == cudaSuccess) status = prepare_decode_kernel<Code, 4>();
  };
  (prepare.template operator()<Codes>(), ...);
  return status;
}

}  // namespace millrace::cuda
