// Linears without instruction sets beyond the architecture's own: the fallback of x86-64 (SSE2), what arm64 runs
// (NEON), and what the other instruction sets are tested with.
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "backend/cpu/linear_code_body.h"
#include "backend/cpu/linear_kernels.h"
#include "core/half.h"
#include "model/slab_layout.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace millrace {

namespace {

// Four 32-bit words, or eight int16 in pairs.
#if defined(__SSE2__)
using Words = __m128i;
inline Words load_words(const void* p) {
  return _mm_loadu_si128(static_cast<const __m128i*>(p));
}
inline void store_words(int32_t* p, Words v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), v);
}
inline Words all_words(uint32_t value) {
  return _mm_set1_epi32(static_cast<int>(value));
}
inline Words mask_words(Words a, Words b) {
  return _mm_and_si128(a, b);
}
inline Words either_words(Words a, Words b) {
  return _mm_or_si128(a, b);
}
// Left; right where negative.
template <int kBits>
inline Words shift_words(Words a) {
  return kBits < 0 ? _mm_srli_epi32(a, -kBits) : _mm_slli_epi32(a, kBits);
}
inline Words dot_words(Words sum, Words a, Words b) {
  return _mm_add_epi32(sum, _mm_madd_epi16(a, b));
}
#elif defined(__aarch64__)
using Words = uint32x4_t;
inline Words load_words(const void* p) {
  return vreinterpretq_u32_u8(vld1q_u8(static_cast<const uint8_t*>(p)));
}
inline void store_words(int32_t* p, Words v) {
  vst1q_s32(p, vreinterpretq_s32_u32(v));
}
inline Words all_words(uint32_t value) {
  return vdupq_n_u32(value);
}
inline Words mask_words(Words a, Words b) {
  return vandq_u32(a, b);
}
inline Words either_words(Words a, Words b) {
  return vorrq_u32(a, b);
}
// Left; right where negative.
template <int kBits>
inline Words shift_words(Words a) {
  return vshlq_u32(a, vdupq_n_s32(kBits));
}
inline Words dot_words(Words sum, Words a, Words b) {
  const int16x8_t x = vreinterpretq_s16_u32(a), y = vreinterpretq_s16_u32(b);
  const int32x4_t low = vmull_s16(vget_low_s16(x), vget_low_s16(y)), high = vmull_high_s16(x, y);
  return vaddq_u32(sum, vreinterpretq_u32_s32(vpaddq_s32(low, high)));
}
#else
struct Words {
  uint32_t v[4];
};
inline Words load_words(const void* p) {
  Words w;
  std::memcpy(w.v, p, sizeof w.v);
  return w;
}
inline void store_words(int32_t* p, Words w) {
  std::memcpy(p, w.v, sizeof w.v);
}
inline Words all_words(uint32_t value) {
  return {{value, value, value, value}};
}
inline Words mask_words(Words a, Words b) {
  for (int i = 0; i < 4; i++) a.v[i] &= b.v[i];
  return a;
}
inline Words either_words(Words a, Words b) {
  for (int i = 0; i < 4; i++) a.v[i] |= b.v[i];
  return a;
}
// Left; right where negative.
template <int kBits>
inline Words shift_words(Words a) {
  for (uint32_t& word : a.v) word = kBits < 0 ? word >> (-kBits & 31) : word << (kBits & 31);
  return a;
}
inline Words dot_words(Words sum, Words a, Words b) {
  for (int i = 0; i < 4; i++) {
    const int32_t low = static_cast<int16_t>(a.v[i]) * static_cast<int16_t>(b.v[i]);
    const int32_t high = static_cast<int16_t>(a.v[i] >> 16) * static_cast<int16_t>(b.v[i] >> 16);
    sum.v[i] += static_cast<uint32_t>(low + high);
  }
  return sum;
}
#endif

inline Words pair_of(const int16_t* x) {
  uint32_t pair;
  std::memcpy(&pair, x, 4);
  return all_words(pair);
}

void quantize(const float* x, int count, int16_t* q, float* scale, int32_t* sum) {
  uint32_t largest = 0;
  for (int i = 0; i < count; i++) {
    const uint32_t magnitude = std::bit_cast<uint32_t>(x[i]) & 0x7fffffffu;
    largest = magnitude > largest ? magnitude : largest;
  }
  const float max_abs = std::bit_cast<float>(largest);
  if (largest >= 0x7f800000u || max_abs < kLinearTinyBlock) {
    *scale = largest >= 0x7f800000u ? std::numeric_limits<float>::quiet_NaN() : 0.0f;
    *sum = 0;
    std::memset(q, 0, static_cast<size_t>(count) * sizeof(int16_t));
    return;
  }
  const float inverse = 32767.0f / max_abs;
  int32_t total = 0;
  for (int i = 0; i < count; i++) {
    // Adding 1.5 * 2^23 rounds to nearest even and leaves the integer in the low mantissa bits.
    const int32_t value = std::bit_cast<int32_t>(x[i] * inverse + 0x1.8p23f) - 0x4b400000;
    q[i] = static_cast<int16_t>(value);
    total += value;
  }
  *scale = max_abs / 32767.0f;
  *sum = total;
}

// Words of code.h: one t of a g.
struct WordsPlain {
  using V = Words;
  struct Table {
    uint8_t bytes[16];
  };
  static constexpr int kTs = 1;
  static constexpr bool kSingle = false;
  static V zero() { return all_words(0); }
  static V load(const std::byte* p) { return load_words(p); }
  static V mask(V a, uint32_t bits) { return mask_words(a, all_words(bits)); }
  static V either(V a, V b) { return either_words(a, b); }
  template <int kBits>
  static V right(V a) {
    return shift_words<-kBits>(a);
  }
  template <int kBits>
  static V left(V a) {
    return shift_words<kBits>(a);
  }
  static V load_fields(const std::byte* p) {
    uint32_t two[2], four[4];
    std::memcpy(two, p, sizeof two);
    for (int j = 0; j < 4; j++) four[j] = two[j / 2] >> (8 * (j % 2));
    return load_words(four);
  }
  static Table table(const uint8_t* bytes) {
    Table out;
    std::memcpy(out.bytes, bytes, sizeof out.bytes);
    return out;
  }
  static V look_up(const Table& table, V index) {
    uint8_t bytes[16];
    store_words(reinterpret_cast<int32_t*>(bytes), index);
    for (uint8_t& byte : bytes) byte = table.bytes[byte & 15];
    return load_words(bytes);
  }
  static V spread(const int16_t* x, int pair, int first) { return pair_of(x + 8 * pair + 2 * first); }
  static V dot(V sum, V weights, V x) { return dot_words(sum, weights, x); }
  static void reduce(V sum, int32_t* out) { store_words(out, sum); }
  static void widen(const uint8_t* from, float first, float second, float* out) {
    for (int i = 0; i < 32; i++) out[i] = float_of_e4m3(from[i]) * (i / 2 % 2 == 0 ? first : second);
  }
  static void halves(const std::byte* p, float* out) {
    for (int i = 0; i < kTileN; i++) {
      uint16_t bits;
      std::memcpy(&bits, p + 2 * i, sizeof bits);
      out[i] = half_to_float(bits);
    }
  }
  template <int kTileBytes>
  static void prefetch(const std::byte*, int) {}
};

// See linear_q4_avx512.h for the masks and for the factor 16 of h 1.
template <int kRows>
void q4_rows(const Q4RowBlock& a) {
  const Words low = all_words(0x000f000f), high = all_words(0x00f000f0);
  const std::byte* p = a.weights;
  const int16_t* x = a.x;
  const float* x_scales = a.scales;
  const int32_t* x_sums = a.sums;
  std::memset(a.out, 0, sizeof(float) * kRows * kTileN);
  for (int tile = 0; tile < a.slices; tile += a.group_tiles) {
    float scales[kTileN];
    int32_t zeros[kTileN];
    for (int i = 0; i < kTileN; i++) {
      uint16_t bits;
      std::memcpy(&bits, p + 2 * i, 2);
      scales[i] = a.bf16_scales ? bfloat16_to_float(bits) : half_to_float(bits);
      zeros[i] = a.zeros ? static_cast<int32_t>(p[2 * kTileN + i]) : 8;
    }
    p += kTileN * (a.zeros ? 3 : 2);
    const int group_end = tile + a.group_tiles < a.slices ? tile + a.group_tiles : a.slices;
    for (int begin = tile; begin < group_end; begin += a.block_tiles) {
      const int tiles = group_end - begin < a.block_tiles ? group_end - begin : a.block_tiles;
      const ptrdiff_t stride = static_cast<ptrdiff_t>(tiles) * kTileK;
      for (int g = 0; g < 8; g++) {
        Words sums[kRows][2];
        for (int row = 0; row < kRows; row++) sums[row][0] = sums[row][1] = all_words(0);
        for (int s = 0; s < tiles; s++) {
          for (int t = 0; t < 4; t++) {
            const Words words = load_words(p + static_cast<size_t>(s) * kQ4TileBytes + (4 * g + t) * 16);
            const Words next = shift_words<-8>(words);
            const Words w0 = mask_words(words, low), w1 = mask_words(words, high);
            const Words w2 = mask_words(next, low), w3 = mask_words(next, high);
            for (int row = 0; row < kRows; row++) {
              const int16_t* xr = x + row * stride + s * kTileK + 2 * t;
              const Words x0 = pair_of(xr), x1 = pair_of(xr + 8);
              sums[row][0] = dot_words(dot_words(sums[row][0], w0, x0), w2, x1);
              sums[row][1] = dot_words(dot_words(sums[row][1], w1, x0), w3, x1);
            }
          }
        }
        for (int row = 0; row < kRows; row++) {
          int32_t products[8];  // [h][j]
          store_words(products, sums[row][0]);
          store_words(products + 4, sums[row][1]);
          float* out = a.out + row * kTileN + 8 * g;
          for (int i = 0; i < 8; i++) {
            const int32_t sum = (products[i] >> (i < 4 ? 0 : 4)) - zeros[8 * g + i] * x_sums[row];
            out[i] += static_cast<float>(sum) * (scales[8 * g + i] * x_scales[row]);
          }
        }
      }
      p += static_cast<size_t>(tiles) * kQ4TileBytes;
      x += kRows * stride;
      x_scales += kRows;
      x_sums += kRows;
    }
  }
}

constexpr int kMostRows = 4;

void q4(const Q4RowBlock& a) {
  switch (a.rows) {
    case 1:
      return q4_rows<1>(a);
    case 2:
      return q4_rows<2>(a);
    case 3:
      return q4_rows<3>(a);
    default:
      return q4_rows<kMostRows>(a);
  }
}

// The weights of one (j, g) in a tile: four t by eight elements.
constexpr int kLine = 32;

struct F16 {
  using Element = uint16_t;
  // half_to_float() without branches or subnormal operands, written so that compilers make vectors of it.
  static void load(const Element* raw, float* w) {
    uint32_t wide[kLine];
    for (int i = 0; i < kLine; i++) wide[i] = raw[i];
    for (int i = 0; i < kLine; i++) {
      constexpr uint32_t kRebias = 112u << 23;
      const uint32_t magnitude = (wide[i] & 0x7fffu) << 13;
      const uint32_t normal = magnitude + kRebias;
      // A subnormal is read as 2^-14 * 1.mantissa, from which the 1 is subtracted exactly.
      const auto subnormal = std::bit_cast<uint32_t>(std::bit_cast<float>(normal + (1u << 23)) - 0x1p-14f);
      const uint32_t is_subnormal = 0u - static_cast<uint32_t>(magnitude < (1u << 23));
      const uint32_t is_special = 0u - static_cast<uint32_t>(magnitude >= (31u << 23));  // infinity, NaN
      const uint32_t finite = (subnormal & is_subnormal) | (normal & ~is_subnormal);
      w[i] = std::bit_cast<float>((finite + (is_special & kRebias)) | (wide[i] & 0x8000u) << 16);
    }
  }
};
struct Bf16 {
  using Element = uint16_t;
  static void load(const Element* raw, float* w) {
    for (int i = 0; i < kLine; i++) w[i] = bfloat16_to_float(raw[i]);
  }
};
struct F32 {
  using Element = float;
  static void load(const Element* raw, float* w) { std::memcpy(w, raw, kLine * sizeof(float)); }
};

template <typename Type>
void dense(const DenseRowBlock& a) {
  float sums[kLinearDenseRows][32][8];  // (j, g) by the eight elements of a lane
  std::memset(sums, 0, sizeof(sums[0]) * static_cast<size_t>(a.rows));
  const std::byte* p = a.weights;
  for (int s = 0; s < a.slices; s++) {
    for (int jg = 0; jg < 32; jg++) {
      typename Type::Element raw[kLine];
      std::memcpy(raw, p, sizeof raw);
      p += sizeof raw;
      float w[kLine];
      Type::load(raw, w);
      for (int row = 0; row < a.rows; row++) {
        const float* x = a.x + row * a.x_stride + s * kLine;
        float e[8];
        for (int i = 0; i < 8; i++) e[i] = sums[row][jg][i];
        for (int t = 0; t < 4; t++) {
          for (int i = 0; i < 8; i++) e[i] += w[t * 8 + i] * x[t * 8 + i];
        }
        for (int i = 0; i < 8; i++) sums[row][jg][i] = e[i];
      }
    }
  }
  for (int row = 0; row < a.rows; row++) {
    for (int jg = 0; jg < 32; jg++) {
      const float* e = sums[row][jg];
      float* out = a.out + row * kTileN + 8 * (jg % 8) + jg / 8;
      out[0] = (e[0] + e[1]) + (e[4] + e[5]);
      out[4] = (e[2] + e[3]) + (e[6] + e[7]);
    }
  }
}

}  // namespace

const LinearKernels kLinearPlain = {
    "plain", kMostRows,  kCodeRows,   quantize,  q4, nullptr, code_linear<WordsPlain>, code_widen<WordsPlain>,
    nullptr, dense<F16>, dense<Bf16>, dense<F32>};

}  // namespace millrace
