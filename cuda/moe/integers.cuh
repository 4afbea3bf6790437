#pragma once
// Weights of integer codes as bytes for mma's A operand, and x as two planes of bytes for B: exact sums
// (backend/expert_arithmetic.h), of which experts.cuh decodes.
//
// A tile's word has of features g (low nibbles) and g + 8 (high ones) input features 2 t, 2 t + 8, 2 t + 1, 2 t + 9 in
// its bytes' order: `word & 0x0f0f0f0f` is a register of A as it stands, if x lies in that order too, and
// `word & 0xf0f0f0f0` is sixteen times the other one, for which x's scale makes up.
#include "backend/expert_arithmetic.h"
#include "cuda/code.cuh"
#include "cuda/common.cuh"
#include "cuda/common_bytes.cuh"
#include "cuda/linear_decode.cuh"

namespace millrace::cuda {

// ---- Weights: a lane's words of a tile, and the registers of its row block j, of features g (`even`) and g + 8.
// kEvenUnit, kOddUnit: what sums of theirs are multiplied with to be sums over levels. kSigned: zeros are taken off
// already.

template <WeightType TYPE, bool ZEROS>
struct Bytes4 {  // integers of four bits
  static constexpr bool kSigned = code_of(TYPE).zero == 8 && !ZEROS;
  static constexpr float kEvenUnit = kSigned ? 0.0625f : 1.0f, kOddUnit = 0.0625f;
  uint32_t words[4];
  __device__ __forceinline__ void load(uint32_t tile, int lane) {
    const uint4 v = load_shared_16(tile + lane * 16);
    words[0] = v.x, words[1] = v.y, words[2] = v.z, words[3] = v.w;
  }
  __device__ __forceinline__ void registers(int j, uint32_t& even, uint32_t& odd) const {
    if constexpr (kSigned) {  // 16 (level - 8): the nibble above, its highest bit turned
      even = (words[j] << 4 & 0xf0f0f0f0) ^ 0x80808080;
      odd = (words[j] & 0xf0f0f0f0) ^ 0x80808080;
    } else {
      even = words[j] & 0x0f0f0f0f;
      odd = words[j] & 0xf0f0f0f0;
    }
  }
};

struct Bytes6 {
  static constexpr bool kSigned = false;
  static constexpr float kEvenUnit = 1, kOddUnit = 1;
  uint32_t words[4], high[2];
  __device__ __forceinline__ void load(uint32_t tile, int lane) {
    const uint4 v = load_shared_16(tile + lane * 16);
    words[0] = v.x, words[1] = v.y, words[2] = v.z, words[3] = v.w;
    const uint2 h = load_shared_8(tile + 512 + lane * 8);
    high[0] = h.x, high[1] = h.y;
  }
  __device__ __forceinline__ void registers(int j, uint32_t& even, uint32_t& odd) const {
    const uint32_t bits = j % 2 == 0 ? high[j / 2] : high[j / 2] >> 8;  // by 16 bits: fields of two, g's first
    even = (words[j] & 0x0f0f0f0f) | (bits << 4 & 0x00300030) | (bits << 10 & 0x30003000);
    odd = (words[j] >> 4 & 0x0f0f0f0f) | (bits & 0x00300030) | (bits << 6 & 0x30003000);
  }
};

template <bool ZEROS>
struct Bytes8 {
  static constexpr bool kSigned = !ZEROS;
  static constexpr float kEvenUnit = 1, kOddUnit = 1;
  uint32_t words[2][4];  // [pair][j]
  __device__ __forceinline__ void load(uint32_t tile, int lane) {
#pragma unroll
    for (int pair = 0; pair < 2; pair++) {
      const uint4 v = load_shared_16(tile + pair * 512 + lane * 16);
      words[pair][0] = v.x, words[pair][1] = v.y, words[pair][2] = v.z, words[pair][3] = v.w;
    }
  }
  __device__ __forceinline__ void registers(int j, uint32_t& even, uint32_t& odd) const {
    constexpr uint32_t kTurn = kSigned ? 0x80808080 : 0;  // of zero 128
    even = __byte_perm(words[0][j], words[1][j], 0x6240) ^ kTurn;
    odd = __byte_perm(words[0][j], words[1][j], 0x7351) ^ kTurn;
  }
};

template <WeightType TYPE>
struct BytesOfTable {
  static constexpr bool kSigned = true;
  static constexpr float kEvenUnit = 1, kOddUnit = 1;
  static constexpr uint32_t entries(int first) {
    uint32_t word = 0;
    for (int i = 0; i < 4; i++) {
      word |= static_cast<uint32_t>(static_cast<uint8_t>(code_of(TYPE).table[first + i])) << (8 * i);
    }
    return word;
  }
  uint32_t words[4];
  __device__ __forceinline__ void load(uint32_t tile, int lane) {
    const uint4 v = load_shared_16(tile + lane * 16);
    words[0] = v.x, words[1] = v.y, words[2] = v.z, words[3] = v.w;
  }
  // Two look-ups of 8 entries, of which a nibble's bit 3 chooses.
  __device__ __forceinline__ void registers(int j, uint32_t& even, uint32_t& odd) const {
    constexpr uint32_t k0 = entries(0), k1 = entries(4), k2 = entries(8), k3 = entries(12);
    const uint32_t word = words[j];
    const uint32_t index = word & 0x77777777, choose = and_or(word >> 1, 0x44444444, 0x32103210);
    uint32_t bytes[2];  // of the word's lower and upper nibbles: g, g + 8, g, g + 8
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const uint32_t low = __byte_perm(k0, k1, index >> (16 * h)), high = __byte_perm(k2, k3, index >> (16 * h));
      bytes[h] = __byte_perm(low, high, choose >> (16 * h));
    }
    even = __byte_perm(bytes[0], bytes[1], 0x6420);
    odd = __byte_perm(bytes[0], bytes[1], 0x7531);
  }
};

template <WeightType TYPE, bool ZEROS>
struct BytesOf {
  using type = Bytes4<TYPE, ZEROS>;
};
template <WeightType TYPE, bool ZEROS>
  requires(code_of(TYPE).levels == Levels::table)
struct BytesOf<TYPE, ZEROS> {
  using type = BytesOfTable<TYPE>;
};
template <WeightType TYPE, bool ZEROS>
  requires(code_of(TYPE).bits == 6)
struct BytesOf<TYPE, ZEROS> {
  using type = Bytes6;
};
template <WeightType TYPE, bool ZEROS>
  requires(code_of(TYPE).bits == 8)
struct BytesOf<TYPE, ZEROS> {
  using type = Bytes8<ZEROS>;
};

// ---- x

// Rows of a chunk of x in shared memory, float16, become two planes of bytes in their place, of q / 256 and of the
// rest, and behind them the scale. By a warp, N runs of lanes' loads at once, so that they wait for one another once;
// slices from a row's count on become zeros. `rows`: this lane's. (The same row may come twice: to the same bytes.)
template <int SLICES, int N>
__device__ __forceinline__ void quantize_rows(const uint32_t (&rows)[N], const int (&counts)[N], int lane) {
  constexpr int kLanes = 4 * SLICES;  // of a row
  const int within = lane % kLanes;
  uint32_t pairs[N][2], largest[N], exponents[N];
#pragma unroll
  for (int i = 0; i < N; i++) {
    const uint32_t from = rows[i] + within / 4 * 32 + within % 4 * 4;
    pairs[i][0] = load_shared_4(from);
    pairs[i][1] = load_shared_4(from + 16);
  }
#pragma unroll
  for (int i = 0; i < N; i++) {
    if (within / 4 >= counts[i]) pairs[i][0] = pairs[i][1] = 0;
    const uint32_t most = __vmaxu2(pairs[i][0] & 0x7fff7fff, pairs[i][1] & 0x7fff7fff);
    largest[i] = max(most & 0xffff, most >> 16);
  }
#pragma unroll
  for (int i = 0; i < N; i++) {
#if __CUDA_ARCH__ >= 800
    if constexpr (kLanes == 32) {
      largest[i] = __reduce_max_sync(~0u, largest[i]);
    } else
#endif
    {
#pragma unroll
      for (int step = kLanes / 2; step > 0; step /= 2) {
        largest[i] = max(largest[i], __shfl_xor_sync(~0u, largest[i], step));
      }
    }
  }
  __syncwarp();  // all have read the rows
#pragma unroll
  for (int i = 0; i < N; i++) {
    const float most = __half2float(__ushort_as_half(static_cast<unsigned short>(largest[i])));
    exponents[i] = expert_exponent(__float_as_uint(most));
    const float factor = __uint_as_float(expert_factor_bits(exponents[i]));
    int q[4];
#pragma unroll
    for (int p = 0; p < 2; p++) {
      const float2 two = __half22float2(*reinterpret_cast<const __half2*>(&pairs[i][p]));
      q[2 * p] = __float2int_rn(two.x * factor);
      q[2 * p + 1] = __float2int_rn(two.y * factor);
    }
    const uint32_t ab = __byte_perm(q[0], q[2], 0x5140), cd = __byte_perm(q[1], q[3], 0x5140);
    store_shared_4(rows[i] + within * 4, __byte_perm(ab, cd, 0x7632));
    store_shared_4(rows[i] + kLanes * 4 + within * 4, __byte_perm(ab, cd, 0x5410));
    if (within == 0) store_shared_4(rows[i] + kLanes * 8, expert_scale_bits(exponents[i]));
  }
}

// All rows of a chunk at `x`.
template <int SLICES>
__device__ __forceinline__ void quantize_chunk(uint32_t x, int rows, int count, int lane) {
  constexpr int kPitch = PortableShape::x_pitch(SLICES);
  constexpr int kLanes = 4 * SLICES, kTogether = 32 / kLanes;
  static_assert(SLICES == 4 || SLICES == 8);
  const auto some = [&]<int N>(int first) {
    uint32_t at[N];
    int counts[N];
#pragma unroll
    for (int i = 0; i < N; i++) {
      at[i] = x + min(first + i * kTogether + lane / kLanes, rows - 1) * kPitch;
      counts[i] = count;
    }
    quantize_rows<SLICES, N>(at, counts, lane);
  };
  if (rows <= kTogether) {
    some.template operator()<1>(0);
  } else if (rows <= 2 * kTogether) {
    some.template operator()<2>(0);
  } else {
#pragma unroll 1
    for (int first = 0; first < rows; first += 4 * kTogether) some.template operator()<4>(first);
  }
  __syncwarp();
}

// ---- A chunk's products. Layout: how chunks lie (linear_decode.cuh).

template <class Layout, WeightType TYPE, bool ZEROS>
struct IntegerCode : Layout {
  static constexpr bool kInteger = true;
  static constexpr Code kTraits = code_of(TYPE);
  static constexpr int kSlices = Layout::kSlices, kGroup = Layout::kGroup;
  static constexpr int kSpan = kTraits.span_bytes(), kTile = kTraits.tile_bytes();
  static_assert(kSlices == expert_chunk_tiles(TYPE));
  using Weights = typename BytesOf<TYPE, ZEROS>::type;
  static constexpr bool kMinimums = kTraits.minimums();
  static constexpr bool kTakesZeros = !Weights::kSigned && (ZEROS || kTraits.zero != 0);

  // Sums of two planes, exactly.
  __device__ static __forceinline__ int whole(int high, int low) { return high * 256 + low; }

  template <bool SIGNED_A, bool SIGNED_B, int STEP>
  __device__ static __forceinline__ void multiply_bytes(int (&d)[4], const uint32_t (&a)[STEP][2], const uint32_t* b) {
    if constexpr (STEP == 1) {
      mma_bytes_k16<SIGNED_A, SIGNED_B>(d, a[0][0], a[0][1], b[0]);
    } else {
#pragma unroll
      for (int s = 0; s < STEP; s += 2) {
        mma_bytes_k32<SIGNED_A, SIGNED_B>(d, a[s][0], a[s][1], a[s + 1][0], a[s + 1][1], b[s], b[s + 1]);
      }
    }
  }

  template <int TILES, bool FULL>
  __device__ static void multiply_groups(const DecodeTask& task, uint32_t stage, const uint32_t (&x_lane)[TILES], int n,
                                         int lane, Sums<TILES>& sums) {
    uint32_t b[TILES][2][kSlices];
    float x_scales[TILES][2];
#pragma unroll
    for (int i = 0; i < TILES; i++) {
      const uint32_t own = load_shared_4(x_lane[i] - lane / 8 * 16 + kSlices * 32);  // of row lane % 8
#pragma unroll
      for (int c = 0; c < 2; c++) x_scales[i][c] = __uint_as_float(__shfl_sync(~0u, own, lane % 4 * 2 + c));
#pragma unroll
      for (int plane = 0; plane < 2; plane++) {
#pragma unroll
        for (int s = 0; s < kSlices; s += 4) {
          uint32_t four[4];
          load_matrices_at(four, x_lane[i] + plane * kSlices * 16 + s * 16);
#pragma unroll
          for (int k = 0; k < 4; k++) b[i][plane][s + k] = four[k];
        }
      }
    }
    Span<TYPE, 8> span;
    span.load(stage, {lane});
#pragma unroll
    for (int begin = 0; begin < kSlices; begin += kGroup) {
      if (!FULL && begin >= n) return;
      const uint32_t header = stage + kSpan + begin / kGroup * Layout::kGroupBytes;
      const uint32_t offsets = header + kTileN * kTraits.scale_bytes();
      Weights tiles[kGroup];
#pragma unroll
      for (int s = 0; s < kGroup; s++) tiles[s].load(header + Layout::kHeaderBytes + s * kTile, lane);
      float scales[8], minimums[8] = {};  // [half][j]
      load_scales<TYPE, 8>(header, {lane}, task.bfloat16_scales, span, scales);
      if constexpr (kMinimums) load_minimums<TYPE, 8>(offsets, {lane}, span, minimums);
      int x_sums[TILES][2] = {};
      if constexpr (kMinimums || kTakesZeros) {
        uint32_t ones[kGroup][2];
#pragma unroll
        for (int s = 0; s < kGroup; s++) ones[s][0] = ones[s][1] = 0x01010101;
#pragma unroll
        for (int i = 0; i < TILES; i++) {
          int high[4] = {}, low[4] = {};
          multiply_bytes<false, true>(high, ones, &b[i][0][begin]);
          multiply_bytes<false, false>(low, ones, &b[i][1][begin]);
          x_sums[i][0] = whole(high[0], low[0]);
          x_sums[i][1] = whole(high[1], low[1]);
        }
      }
      // Of few rows the four row blocks' sums side by side: each product waits for the one before in its own.
      constexpr int kBeside = TILES == 1 ? 4 : 1;
#pragma unroll
      for (int first = 0; first < 4; first += kBeside) {
        int high[kBeside][TILES][4] = {}, low[kBeside][TILES][4] = {};
        constexpr int kStep = kGroup == 1 ? 1 : 2;
#pragma unroll
        for (int s = 0; s < kGroup; s += kStep) {
#pragma unroll
          for (int j = 0; j < kBeside; j++) {
            uint32_t a[kStep][2];
#pragma unroll
            for (int k = 0; k < kStep; k++) tiles[s + k].registers(first + j, a[k][0], a[k][1]);
#pragma unroll
            for (int i = 0; i < TILES; i++) {
              multiply_bytes<Weights::kSigned, true>(high[j][i], a, &b[i][0][begin + s]);
              multiply_bytes<Weights::kSigned, false>(low[j][i], a, &b[i][1][begin + s]);
            }
          }
        }
#pragma unroll
        for (int j = 0; j < kBeside; j++) {
#pragma unroll
          for (int i = 0; i < TILES; i++) {
#pragma unroll
            for (int c = 0; c < 4; c++) {
              finish(first + j, c, whole(high[j][i][c], low[j][i][c]), x_sums[i][c % 2], x_scales[i][c % 2], scales,
                     minimums, offsets, lane, sums[i][first + j][c]);
            }
          }
        }
      }
    }
  }
  // A group's exact sum of bytes' products, of row block j and mma's sum c, times its scales.
  __device__ static __forceinline__ void finish(int j, int c, int sum, int x_sum, float x_scale,
                                                const float (&scales)[8], const float (&minimums)[8], uint32_t offsets,
                                                int lane, float& to) {
    const int odd = c / 2;
    const float unit = odd ? Weights::kOddUnit : Weights::kEvenUnit;
    if constexpr (kTakesZeros) {  // levels times 1 or 16; the zero likewise
      const int zero = ZEROS ? static_cast<int>(load_zero(offsets, lane, 4 * odd + j)) : kTraits.zero;
      sum -= zero * static_cast<int>(1 / unit) * x_sum;
    }
    to = fmaf(__fmul_rn(__int2float_rn(sum), scales[4 * odd + j]), x_scale * unit, to);
    if constexpr (kMinimums) {
      to = fmaf(__fmul_rn(minimums[4 * odd + j], __int2float_rn(x_sum)), x_scale, to);
    }
  }
  __device__ static __forceinline__ uint32_t load_zero(uint32_t offsets, int lane, int i) {
    return load_shared_1(offsets + lane / 4 * 8 + i);
  }

  template <int TILES>
  __device__ static void multiply_whole(const DecodeTask& task, uint32_t stage, const uint32_t (&x_lane)[TILES],
                                        int lane, Sums<TILES>& sums) {
    multiply_groups<TILES, true>(task, stage, x_lane, kSlices, lane, sums);
  }
  template <int TILES>
  __device__ static void multiply(const DecodeTask& task, uint32_t stage, const uint32_t (&x_lane)[TILES], int chunk,
                                  int lane, Sums<TILES>& sums) {
    const int n = Layout::count(task, chunk);
    if (!Layout::kRegular && n == kSlices) {
      multiply_groups<TILES, true>(task, stage, x_lane, n, lane, sums);
    } else {
      multiply_groups<TILES, false>(task, stage, x_lane, n, lane, sums);
    }
  }
};

template <class Code>
inline constexpr bool kIsInteger = requires { Code::kInteger; };

}  // namespace millrace::cuda
