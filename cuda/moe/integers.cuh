#pragma once
// Weights of integer codes as bytes for mma's A operand, and x as two planes of bytes for B: exact sums
// (backend/expert_arithmetic.h), of which experts.cuh decodes.
//
// A tile's word has of features g (low nibbles) and g + 8 (high ones) input features 2 t, 2 t + 8, 2 t + 1, 2 t + 9 in
// its bytes' order: `word & 0x0f0f0f0f` is a register of A as it stands, if x lies in that order too, and
// `word & 0xf0f0f0f0` is sixteen times the other one, for which x's scale makes up.
#include "cuda/code.cuh"
#include "cuda/common.cuh"
#include "cuda/linear_decode.cuh"
#include "backend/expert_arithmetic.h"

namespace millrace::cuda {

// ---- D += A B of bytes: A 16 x 32 or 16 x 16, B likewise x 8, int32 sums. SIGNED_A, SIGNED_B: or unsigned.

#if __CUDA_ARCH__ >= 800
template <bool SIGNED_A, bool SIGNED_B>
__device__ __forceinline__ void mma_bytes_k32(int (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
  if constexpr (SIGNED_A && SIGNED_B) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n" : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  } else if constexpr (SIGNED_A && !SIGNED_B) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.u8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n" : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  } else if constexpr (!SIGNED_A && SIGNED_B) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n" : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  } else if constexpr (!SIGNED_A && !SIGNED_B) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.u8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n" : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  }
}
template <bool SIGNED_A, bool SIGNED_B>
__device__ __forceinline__ void mma_bytes_k16(int (&d)[4], uint32_t a0, uint32_t a1, uint32_t b0) {
  if constexpr (SIGNED_A && SIGNED_B) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};\n" : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]) : "r"(a0), "r"(a1), "r"(b0));
  } else if constexpr (SIGNED_A && !SIGNED_B) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.s32.s8.u8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};\n" : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]) : "r"(a0), "r"(a1), "r"(b0));
  } else if constexpr (!SIGNED_A && SIGNED_B) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};\n" : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]) : "r"(a0), "r"(a1), "r"(b0));
  } else if constexpr (!SIGNED_A && !SIGNED_B) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.s32.u8.u8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};\n" : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]) : "r"(a0), "r"(a1), "r"(b0));
  }
}
#else  // sm_75 has the form of eight features alone
template <bool SIGNED_A, bool SIGNED_B>
__device__ __forceinline__ void mma_bytes_half(int& d0, int& d1, uint32_t a, uint32_t b) {
  if constexpr (SIGNED_A && SIGNED_B) {
    asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0,%1}, {%2}, {%3}, {%0,%1};\n" : "+r"(d0), "+r"(d1) : "r"(a), "r"(b));
  } else if constexpr (SIGNED_A && !SIGNED_B) {
    asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.s8.u8.s32 {%0,%1}, {%2}, {%3}, {%0,%1};\n" : "+r"(d0), "+r"(d1) : "r"(a), "r"(b));
  } else if constexpr (!SIGNED_A && SIGNED_B) {
    asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.u8.s8.s32 {%0,%1}, {%2}, {%3}, {%0,%1};\n" : "+r"(d0), "+r"(d1) : "r"(a), "r"(b));
  } else if constexpr (!SIGNED_A && !SIGNED_B) {
    asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.u8.u8.s32 {%0,%1}, {%2}, {%3}, {%0,%1};\n" : "+r"(d0), "+r"(d1) : "r"(a), "r"(b));
  }
}
template <bool SIGNED_A, bool SIGNED_B>
__device__ __forceinline__ void mma_bytes_k16(int (&d)[4], uint32_t a0, uint32_t a1, uint32_t b0) {
  mma_bytes_half<SIGNED_A, SIGNED_B>(d[0], d[1], a0, b0);
  mma_bytes_half<SIGNED_A, SIGNED_B>(d[2], d[3], a1, b0);
}
template <bool SIGNED_A, bool SIGNED_B>
__device__ __forceinline__ void mma_bytes_k32(int (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
  mma_bytes_k16<SIGNED_A, SIGNED_B>(d, a0, a1, b0);
  mma_bytes_k16<SIGNED_A, SIGNED_B>(d, a2, a3, b1);
}
#endif

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

__device__ __forceinline__ void store_shared_4(uint32_t address, uint32_t v) {
  asm volatile("st.shared.u32 [%0], %1;" ::"r"(address), "r"(v) : "memory");
}

// Rows of a chunk of x in shared memory, float16, become two planes of bytes in their place, of q / 256 and of the
// rest, and behind them the scale. By a warp; slices from `count` on become zeros.
template <int SLICES>
__device__ __forceinline__ void quantize_chunk(uint32_t x, int rows, int count, int lane) {
  constexpr int kPitch = PortableShape::x_pitch(SLICES);
  constexpr int kLanes = 4 * SLICES, kTogether = 32 / kLanes;  // of a row; rows at once
  static_assert(SLICES == 4 || SLICES == 8);
  const int within = lane % kLanes;
#pragma unroll 1
  for (int first = 0; first < rows; first += kTogether) {
    // (Of an odd number of rows the last one twice, to the same bytes.)
    const uint32_t row = x + min(first + lane / kLanes, rows - 1) * kPitch;
    const uint32_t from = row + within / 4 * 32 + within % 4 * 4;
    uint32_t pairs[2] = {load_shared_4(from), load_shared_4(from + 16)};
    if (within / 4 >= count) pairs[0] = pairs[1] = 0;
    const uint32_t most = __vmaxu2(pairs[0] & 0x7fff7fff, pairs[1] & 0x7fff7fff);
    uint32_t largest = max(most & 0xffff, most >> 16);
#if __CUDA_ARCH__ >= 800
    if constexpr (kLanes == 32) {
      largest = __reduce_max_sync(~0u, largest);
    } else
#endif
    {
#pragma unroll
      for (int step = kLanes / 2; step > 0; step /= 2) largest = max(largest, __shfl_xor_sync(~0u, largest, step));
    }
    const uint32_t exponent =
        expert_exponent(__float_as_uint(__half2float(__ushort_as_half(static_cast<unsigned short>(largest)))));
    const float factor = __uint_as_float(expert_factor_bits(exponent));
    int q[4];
#pragma unroll
    for (int p = 0; p < 2; p++) {
      const float2 two = __half22float2(*reinterpret_cast<const __half2*>(&pairs[p]));
      q[2 * p] = __float2int_rn(two.x * factor);
      q[2 * p + 1] = __float2int_rn(two.y * factor);
    }
    const uint32_t ab = __byte_perm(q[0], q[2], 0x5140), cd = __byte_perm(q[1], q[3], 0x5140);
    __syncwarp();  // all have read the row
    store_shared_4(row + within * 4, __byte_perm(ab, cd, 0x7632));
    store_shared_4(row + kLanes * 4 + within * 4, __byte_perm(ab, cd, 0x5410));
    if (within == 0) store_shared_4(row + kLanes * 8, expert_scale_bits(exponent));
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

  template <bool SIGNED_A, bool SIGNED_B>
  __device__ static __forceinline__ void multiply_bytes(int (&d)[4], const uint32_t (&a)[kGroup][2],
                                                        const uint32_t* b) {
    if constexpr (kGroup == 1) {
      mma_bytes_k16<SIGNED_A, SIGNED_B>(d, a[0][0], a[0][1], b[0]);
    } else {
#pragma unroll
      for (int s = 0; s < kGroup; s += 2) {
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
      float scales[8], minimums[8];  // [half][j]
      load_scales<TYPE, 8>(header, {lane}, task.bfloat16_scales, span, scales);
      if constexpr (kMinimums) load_minimums<TYPE, 8>(offsets, {lane}, span, minimums);
      int x_sums[TILES][2];
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
#pragma unroll
      for (int j = 0; j < 4; j++) {
        uint32_t a[kGroup][2];
#pragma unroll
        for (int s = 0; s < kGroup; s++) tiles[s].registers(j, a[s][0], a[s][1]);
#pragma unroll
        for (int i = 0; i < TILES; i++) {
          int high[4] = {}, low[4] = {};
          multiply_bytes<Weights::kSigned, true>(high, a, &b[i][0][begin]);
          multiply_bytes<Weights::kSigned, false>(low, a, &b[i][1][begin]);
#pragma unroll
          for (int c = 0; c < 4; c++) {
            const int odd = c / 2;
            int sum = whole(high[c], low[c]);
            if constexpr (kTakesZeros) {
              // Levels times 1 or 16; the zero likewise.
              const int times = static_cast<int>(1 / (odd ? Weights::kOddUnit : Weights::kEvenUnit));
              const int zero = ZEROS ? static_cast<int>(load_zero(offsets, lane, 4 * odd + j)) : kTraits.zero;
              sum -= zero * times * x_sums[i][c % 2];
            }
            const float unit = x_scales[i][c % 2] * (odd ? Weights::kOddUnit : Weights::kEvenUnit);
            sums[i][j][c] = fmaf(__fmul_rn(__int2float_rn(sum), scales[4 * odd + j]), unit, sums[i][j][c]);
            if constexpr (kMinimums) {
              const float total = __int2float_rn(x_sums[i][c % 2]);
              sums[i][j][c] = fmaf(__fmul_rn(minimums[4 * odd + j], total), x_scales[i][c % 2], sums[i][j][c]);
            }
          }
        }
      }
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
