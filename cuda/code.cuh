#pragma once
// How weights of each code become float16 on the GPU, exactly: one trait a kind of tile (the registers of
// mma.m16n8k16's A operand), and one reader of scales and minimums. Every linear takes its weights from here.
//
// Integers: 1024 + q has the bits 0x6400 | q, from which 1024 + zero is taken. Four bits further up the same bits are
// 1024 + 16 q, of which a sixteenth less 64 + zero is the same. The scale is applied to a group's float32 sum. (Nibbles
// as subnormal float16, without these subtractions, lose 10 bits: tensor cores align products by nominal exponents.
// Measured: relative error 1e-4.)
#include <cuda_fp16.h>

#include "cuda/common.cuh"
#include "model/code.h"

namespace millrace::cuda {

__device__ __forceinline__ uint32_t add_half2(uint32_t a, uint32_t b) {
  const __half2 v = __hadd2(*reinterpret_cast<const __half2*>(&a), *reinterpret_cast<const __half2*>(&b));
  return *reinterpret_cast<const uint32_t*>(&v);
}
__device__ __forceinline__ uint32_t sixteenth_plus(uint32_t a, uint32_t b) {
  const __half2 v = __hfma2(*reinterpret_cast<const __half2*>(&a), __half2half2(__ushort_as_half(0x2c00)),
                            *reinterpret_cast<const __half2*>(&b));
  return *reinterpret_cast<const uint32_t*>(&v);
}

// What is added to numbers of output features g (even registers) and g + 8 (odd ones): -(1024 + zero) or -(64 + zero),
// twice.
struct ZeroShift {
  uint32_t even, odd;
};

// ---- Four bits

__device__ __forceinline__ ZeroShift nibble_shift(uint32_t zero_even, uint32_t zero_odd) {
  return {0xe400e400 + zero_even * 0x00010001, 0xd400d400 + zero_odd * 0x00100010};
}
// exponent: 0x64006400, in a register where that is better.
__device__ __forceinline__ void nibble_registers(uint32_t word, uint32_t exponent, const ZeroShift& shift,
                                                 uint32_t (&a)[4]) {
  const uint32_t high = word >> 8;
  a[0] = add_half2(and_or(word, 0x000f000f, exponent), shift.even);
  a[1] = sixteenth_plus(and_or(word, 0x00f000f0, exponent), shift.odd);
  a[2] = add_half2(and_or(high, 0x000f000f, exponent), shift.even);
  a[3] = sixteenth_plus(and_or(high, 0x00f000f0, exponent), shift.odd);
}

// ---- Tiles: a lane's words, and the registers of its row block j; after load_half(), of which j = 0 and 1 are those
// of the tile's row blocks 2 half and 2 half + 1.

template <int BITS, Levels LEVELS>
struct Tile;

template <>
struct Tile<4, Levels::integer> {
  uint32_t words[4];
  __device__ __forceinline__ void load(uint32_t tile, int lane) {
    const uint4 v = load_shared_16(tile + lane * 16);
    words[0] = v.x, words[1] = v.y, words[2] = v.z, words[3] = v.w;
  }
  __device__ __forceinline__ void load_half(uint32_t tile, int lane, int half) {
    const uint2 v = load_shared_8(tile + lane * 16 + half * 8);
    words[0] = v.x, words[1] = v.y;
  }
  __device__ static ZeroShift shift(uint32_t even, uint32_t odd) { return nibble_shift(even, odd); }
  __device__ __forceinline__ void registers(int j, uint32_t exponent, const ZeroShift& shift, uint32_t (&a)[4]) const {
    nibble_registers(words[j], exponent, shift, a);
  }
};

template <>
struct Tile<6, Levels::integer> {
  uint32_t words[4], high[2];
  __device__ __forceinline__ void load(uint32_t tile, int lane) {
    const uint4 v = load_shared_16(tile + lane * 16);
    words[0] = v.x, words[1] = v.y, words[2] = v.z, words[3] = v.w;
    const uint2 h = load_shared_8(tile + 512 + lane * 8);
    high[0] = h.x, high[1] = h.y;
  }
  __device__ __forceinline__ void load_half(uint32_t tile, int lane, int half) {
    const uint2 v = load_shared_8(tile + lane * 16 + half * 8);
    words[0] = v.x, words[1] = v.y;
    high[0] = load_shared_4(tile + 512 + lane * 8 + half * 4);
  }
  __device__ static ZeroShift shift(uint32_t even, uint32_t odd) { return nibble_shift(even, odd); }
  __device__ __forceinline__ void registers(int j, uint32_t exponent, const ZeroShift& shift, uint32_t (&a)[4]) const {
    const uint32_t bits = high[j / 2], word = words[j], up = word >> 8;
    const uint32_t first = j % 2 == 0 ? bits << 4 : bits >> 4, second = j % 2 == 0 ? bits << 2 : bits >> 6;
    a[0] = add_half2(and_or(first, 0x00300030, and_or(word, 0x000f000f, exponent)), shift.even);
    a[1] = sixteenth_plus(and_or(first, 0x03000300, and_or(word, 0x00f000f0, exponent)), shift.odd);
    a[2] = add_half2(and_or(second, 0x00300030, and_or(up, 0x000f000f, exponent)), shift.even);
    a[3] = sixteenth_plus(and_or(second, 0x03000300, and_or(up, 0x00f000f0, exponent)), shift.odd);
  }
};

template <>
struct Tile<8, Levels::integer> {
  uint32_t words[2][4];  // [pair][j]
  __device__ __forceinline__ void load(uint32_t tile, int lane) {
#pragma unroll
    for (int pair = 0; pair < 2; pair++) {
      const uint4 v = load_shared_16(tile + pair * 512 + lane * 16);
      words[pair][0] = v.x, words[pair][1] = v.y, words[pair][2] = v.z, words[pair][3] = v.w;
    }
  }
  __device__ __forceinline__ void load_half(uint32_t tile, int lane, int half) {
#pragma unroll
    for (int pair = 0; pair < 2; pair++) {
      const uint2 v = load_shared_8(tile + pair * 512 + lane * 16 + half * 8);
      words[pair][0] = v.x, words[pair][1] = v.y;
    }
  }
  __device__ static ZeroShift shift(uint32_t even, uint32_t odd) {
    return {0xe400e400 + even * 0x00010001, 0xe400e400 + odd * 0x00010001};
  }
  __device__ __forceinline__ void registers(int j, uint32_t exponent, const ZeroShift& shift, uint32_t (&a)[4]) const {
#pragma unroll
    for (int pair = 0; pair < 2; pair++) {
      a[2 * pair] = add_half2(__byte_perm(words[pair][j], exponent, 0x5250), shift.even);
      a[2 * pair + 1] = add_half2(__byte_perm(words[pair][j], exponent, 0x5351), shift.odd);
    }
  }
};

// A table's entries as they are written, four a word. (Device code has no host's arrays, nor pointers to them.)
template <WeightType TYPE>
struct TableWords {
  static constexpr bool kIq4 = TYPE == WeightType::iq4_nl || TYPE == WeightType::iq4_xs;
  static constexpr uint32_t k0 = kIq4 ? 0x3e2c1700 : 0x8281807f, k1 = kIq4 ? 0x75695c4e : 0x8b878583;
  static constexpr uint32_t k2 = kIq4 ? 0xa5988c80 : 0x7c7d7e7f, k3 = kIq4 ? 0xf0d8c4b4 : 0x7377797b;
};
template <WeightType TYPE>
constexpr bool table_words_agree() {
  const uint32_t words[4] = {TableWords<TYPE>::k0, TableWords<TYPE>::k1, TableWords<TYPE>::k2, TableWords<TYPE>::k3};
  for (int i = 0; i < 16; i++) {
    if (static_cast<int>(words[i / 4] >> (8 * (i % 4)) & 0xff) != code_of(TYPE).table[i] + kTableZero) return false;
  }
  return true;
}
static_assert(table_words_agree<WeightType::iq4_nl>() && table_words_agree<WeightType::iq4_xs>() &&
              table_words_agree<WeightType::mxfp4>() && table_words_agree<WeightType::nvfp4>());

// Entries of E2M1 need no look-up: a nibble's sign and its three bits, put where float16 has its sign and the end of
// its exponent and the begin of its fraction, are 2^-14 times the number, 0.5 (a subnormal one) included, and so 2^-15
// times the table's doubled entry. Scales make up for it (kTileUnit). Tensor cores align a product by its nominal
// exponent, of which 0.5's is one too large: a bit of some twenty.
template <WeightType TYPE>
inline constexpr bool kIsE2m1 = TYPE == WeightType::mxfp4 || TYPE == WeightType::nvfp4;
// What registers of the code's tiles are multiplied with to be levels.
template <WeightType TYPE>
inline constexpr float kTileUnit = kIsE2m1<TYPE> ? 0x1p15f : 1.0f;

__device__ __forceinline__ void e2m1_registers(uint32_t word, uint32_t (&a)[4]) {
  const uint32_t upper = and_or(word >> 3, 0x0e0e0e0e, word & 0x80808080);
  const uint32_t lower = and_or(word + word, 0x0e0e0e0e, word << 4 & 0x80808080);
  a[0] = __byte_perm(lower, 0, 0x2404);
  a[1] = __byte_perm(upper, 0, 0x2404);
  a[2] = lower & 0xff00ff00;
  a[3] = upper & 0xff00ff00;
}

// A byte of the table for each nibble: two look-ups of 8 entries, of which bit 3 chooses.
template <WeightType TYPE>
__device__ __forceinline__ void table_registers(uint32_t word, uint32_t exponent, const ZeroShift& shift,
                                                uint32_t (&a)[4]) {
  using Table = TableWords<TYPE>;
  const uint32_t index = word & 0x77777777, choose = and_or(word >> 1, 0x44444444, 0x32103210);
  uint32_t bytes[2];
#pragma unroll
  for (int odd = 0; odd < 2; odd++) {
    const uint32_t low = __byte_perm(Table::k0, Table::k1, index >> (16 * odd));
    const uint32_t high = __byte_perm(Table::k2, Table::k3, index >> (16 * odd));
    bytes[odd] = __byte_perm(low, high, choose >> (16 * odd));
  }
#pragma unroll
  for (int r = 0; r < 4; r++) {
    const uint32_t pair = __byte_perm(bytes[0], bytes[1], r | (4 + r) << 8);
    a[r] = add_half2(and_or(pair, 0x00ff00ff, exponent), r % 2 == 0 ? shift.even : shift.odd);
  }
}

template <>
struct Tile<4, Levels::table> {
  uint32_t words[4];
  __device__ __forceinline__ void load(uint32_t tile, int lane) {
    const uint4 v = load_shared_16(tile + lane * 16);
    words[0] = v.x, words[1] = v.y, words[2] = v.z, words[3] = v.w;
  }
  __device__ __forceinline__ void load_half(uint32_t tile, int lane, int half) {
    const uint2 v = load_shared_8(tile + lane * 16 + half * 8);
    words[0] = v.x, words[1] = v.y;
  }
  __device__ static ZeroShift shift(uint32_t even, uint32_t odd) { return Tile<8, Levels::integer>::shift(even, odd); }
  template <WeightType TYPE>
  __device__ __forceinline__ void registers(int j, uint32_t exponent, const ZeroShift& shift, uint32_t (&a)[4]) const {
    if constexpr (kIsE2m1<TYPE>) {
      e2m1_registers(words[j], a);
    } else {
      table_registers<TYPE>(words[j], exponent, shift, a);
    }
  }
};

// e4m3 as float16 of 2^-8 times the number, which all of them are, then times 2^8.
template <>
struct Tile<8, Levels::e4m3> {
  uint32_t words[4][2];  // [j][pair]
  __device__ __forceinline__ void load(uint32_t tile, int lane) {
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const uint2 v = load_shared_8(tile + (j * 32 + lane) * 8);
      words[j][0] = v.x, words[j][1] = v.y;
    }
  }
  __device__ __forceinline__ void load_half(uint32_t tile, int lane, int half) {
#pragma unroll
    for (int j = 0; j < 2; j++) {
      const uint2 v = load_shared_8(tile + ((2 * half + j) * 32 + lane) * 8);
      words[j][0] = v.x, words[j][1] = v.y;
    }
  }
  __device__ static ZeroShift shift(uint32_t, uint32_t) {
    return {};
  }
  __device__ __forceinline__ void registers(int j, uint32_t, const ZeroShift&, uint32_t (&a)[4]) const {
#pragma unroll
    for (int r = 0; r < 4; r++) {
      const uint32_t bytes = __byte_perm(words[j][r / 2], 0, r % 2 == 0 ? 0x1404 : 0x3424);
      const uint32_t bits = and_or(bytes >> 1, 0x3f803f80, bytes & 0x80008000);
      const __half2 v = __hmul2(*reinterpret_cast<const __half2*>(&bits), __half2half2(__ushort_as_half(0x5c00)));
      a[r] = *reinterpret_cast<const uint32_t*>(&v);
    }
  }
};

// ---- What groups and spans have, from columns of 64 in shared memory: of decode a lane's eight, [half of 8
// features][j], with load_half() its four.

struct Lane {
  int lane, half = 0;

  __device__ __forceinline__ int first(int h) const { return lane / 4 * 8 + 4 * h + 2 * half; }  // of its two of N = 4
};

template <int N>
__device__ __forceinline__ void load_halves(uint32_t column, Lane at, bool bfloat16, float (&out)[N]) {
  uint32_t pairs[N / 2];
  if constexpr (N == 8) {
    const uint4 v = load_shared_16(column + at.lane / 4 * 16);
    pairs[0] = v.x, pairs[1] = v.y, pairs[2] = v.z, pairs[3] = v.w;
  } else {
#pragma unroll
    for (int h = 0; h < 2; h++) pairs[h] = load_shared_4(column + at.first(h) * 2);
  }
#pragma unroll
  for (int p = 0; p < N / 2; p++) {
    if (bfloat16) {
      out[2 * p] = __uint_as_float(pairs[p] << 16);
      out[2 * p + 1] = __uint_as_float(pairs[p] & 0xffff0000);
    } else {
      const float2 two = __half22float2(*reinterpret_cast<const __half2*>(&pairs[p]));
      out[2 * p] = two.x;
      out[2 * p + 1] = two.y;
    }
  }
}
template <int N>
__device__ __forceinline__ void load_floats(uint32_t column, Lane at, float (&out)[N]) {
#pragma unroll
  for (int h = 0; h < 2; h++) {
    if constexpr (N == 8) {
      const uint4 v = load_shared_16(column + at.lane / 4 * 32 + h * 16);
      out[4 * h] = __uint_as_float(v.x), out[4 * h + 1] = __uint_as_float(v.y);
      out[4 * h + 2] = __uint_as_float(v.z), out[4 * h + 3] = __uint_as_float(v.w);
    } else {
      const uint2 v = load_shared_8(column + at.first(h) * 4);
      out[2 * h] = __uint_as_float(v.x), out[2 * h + 1] = __uint_as_float(v.y);
    }
  }
}
// Bytes as they lie: byte i % 4 of word i / 4 (of four: i % 2 of word i / 2).
template <int N>
struct Bytes {
  static constexpr int kEach = N / 2;
  uint32_t words[2];
  __device__ __forceinline__ Bytes(uint32_t column, Lane at) {
    if constexpr (N == 8) {
      const uint2 v = load_shared_8(column + at.lane / 4 * 8);
      words[0] = v.x, words[1] = v.y;
    } else {
#pragma unroll
      for (int h = 0; h < 2; h++) words[h] = load_shared_2(column + at.first(h));
    }
  }
  __device__ __forceinline__ uint32_t operator[](int i) const {
    return words[i / kEach] >> (8 * (i % kEach)) & 0xff;
  }
};
__device__ __forceinline__ float e8m0_halved(uint32_t e) {
  return __uint_as_float(e > 1 ? (e - 1) << 23 : 0x00200000u << e);
}
__device__ __forceinline__ float e4m3(uint32_t bits) {
  return __uint_as_float((bits & 0x80) << 24 | (bits & 0x7f) << 20) * 0x1p120f;
}

// A number of each feature of a span, times int8s of its groups, exactly: a byte b, put into the fraction of 2^15,
// makes 2^15 + 128 + b in one instruction, of which `base` takes 2^15 + 128 off in the product's own rounding.
// (Converting bytes to float32 takes three instructions: of q4_k, 50.8 us a layer of an 8B where this takes 50.2.)
template <int N>
struct SpanNumbers {
  float number[N], base[N];
  __device__ __forceinline__ void find_base() {
#pragma unroll
    for (int i = 0; i < N; i++) base[i] = number[i] * -(0x1p15f + 128);
  }
  __device__ __forceinline__ void times(uint32_t column, Lane at, float (&out)[N]) const {
    const Bytes<N> bytes(column, at);
    constexpr int kEach = Bytes<N>::kEach;
#pragma unroll
    for (int w = 0; w < 2; w++) {
      const uint32_t biased = bytes.words[w] ^ 0x80808080;
#pragma unroll
      for (int i = 0; i < kEach; i++) {
        const float level = __uint_as_float(__byte_perm(biased, 0x47000000, 0x7604 | i << 4));
        out[kEach * w + i] = fmaf(number[kEach * w + i], level, base[kEach * w + i]);
      }
    }
  }
};
template <WeightType TYPE, int N>
struct Span {
  SpanNumbers<N> scales, minimums;

  __device__ __forceinline__ void load(uint32_t span, Lane at) {
    constexpr Scales kScales = code_of(TYPE).scales;
    if constexpr (kScales == Scales::nv) load_floats<N>(span, at, scales.number);
    if constexpr (kScales == Scales::two_level) {
      load_halves<N>(span, at, false, scales.number);
      scales.find_base();
    }
    if constexpr (code_of(TYPE).offsets == Offsets::two_level) {
      load_halves<N>(span + 2 * kTileN, at, false, minimums.number);
      minimums.find_base();
    }
  }
};

// Of a group, of levels.
template <WeightType TYPE, int N>
__device__ __forceinline__ void load_scales(uint32_t header, Lane at, bool bfloat16, const Span<TYPE, N>& span,
                                            float (&out)[N]) {
  constexpr Scales kScales = code_of(TYPE).scales;
  if constexpr (kScales == Scales::half) {
    load_halves<N>(header, at, bfloat16, out);
  } else if constexpr (kScales == Scales::f32) {
    load_floats<N>(header, at, out);
  } else if constexpr (kScales == Scales::two_level) {
    span.scales.times(header, at, out);
  } else {
    const Bytes<N> bytes(header, at);
#pragma unroll
    for (int i = 0; i < N; i++) {
      out[i] = kScales == Scales::e8m0 ? e8m0_halved(bytes[i]) : span.scales.number[i] * e4m3(bytes[i]);
    }
  }
}
template <WeightType TYPE, int N>
__device__ __forceinline__ void load_minimums(uint32_t column, Lane at, const Span<TYPE, N>& span, float (&out)[N]) {
  if constexpr (code_of(TYPE).offsets == Offsets::minimum) {
    load_halves<N>(column, at, false, out);
  } else {
    span.minimums.times(column, at, out);
  }
}

}  // namespace millrace::cuda
