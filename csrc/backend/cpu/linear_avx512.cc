// Linears in AVX-512 (F, BW, VL, DQ).
#if defined(__x86_64__)
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12's own AVX-512 headers trip these (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include <cstring>

#include "backend/cpu/linear_code_avx512.h"
#include "backend/cpu/linear_kernels.h"
#include "backend/cpu/linear_q4_avx512.h"

namespace millrace {

void linear_q4_avx512vnni(const Q4RowBlock& a);
void linear_q4_many_avx512vnni(const Q4RowBlock& a);
void linear_code_avx512vnni(const CodeRowBlock& a);

namespace {

void quantize(const float* x, int count, int16_t* q, float* scale, int32_t* sum) {
  __m512i magnitudes = _mm512_setzero_si512();
  for (int i = 0; i < count; i += 16) {
    const __m512i bits = _mm512_castps_si512(_mm512_loadu_ps(x + i));
    magnitudes = _mm512_max_epu32(magnitudes, _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff)));
  }
  const uint32_t largest = _mm512_reduce_max_epu32(magnitudes);
  const float max_abs = _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(static_cast<int>(largest))));
  if (largest >= 0x7f800000u || max_abs < kLinearTinyBlock) {
    *scale = largest >= 0x7f800000u ? __builtin_nanf("") : 0.0f;
    *sum = 0;
    for (int i = 0; i < count; i += 16) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(q + i), _mm256_setzero_si256());
    }
    return;
  }
  const __m512 inverse = _mm512_set1_ps(32767.0f / max_abs);
  __m512i total = _mm512_setzero_si512();
  for (int i = 0; i < count; i += 16) {
    const __m512i value = _mm512_cvt_roundps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + i), inverse),
                                                   _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    total = _mm512_add_epi32(total, value);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(q + i), _mm512_cvtepi32_epi16(value));
  }
  *scale = max_abs / 32767.0f;
  *sum = _mm512_reduce_add_epi32(total);
}

struct F16 {
  static constexpr int kBytes = 2;
  static __m512 load(const std::byte* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
};
struct Bf16 {
  static constexpr int kBytes = 2;
  static __m512 load(const std::byte* p) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
};
struct F32 {
  static constexpr int kBytes = 4;
  static __m512 load(const std::byte* p) { return _mm512_loadu_ps(p); }
};

// Tiles that a sum takes in before it goes back to memory. DRAM is read fastest in the tiles' own order, a tile at a
// time; with more rows fewer loads and stores of sums count more. The order of additions does not depend on it.
template <typename Type, int kRows>
inline constexpr int kChunkTiles = Type::kBytes == 4 ? (kRows == 1 ? 4 : 2) : (kRows > 2 ? 2 : 1);

// Sums of kGs lines of row block j, lanes [t % 2][element], over one chunk of tiles for kRows rows. Every row's order
// of additions is the same whatever kRows and kGs are.
template <typename Type, int kRows, int kGs>
inline void dense_chunk(const std::byte* weights, int tiles, const float* x, int64_t x_stride, float* sums) {
  constexpr int kTile = 1024 * Type::kBytes;
  __m512 sum[kRows][kGs];
  MILLRACE_UNROLL(8)
  for (int row = 0; row < kRows; row++) {
    MILLRACE_UNROLL(16)
    for (int g = 0; g < kGs; g++) sum[row][g] = _mm512_load_ps(sums + row * 512 + g * 16);
  }
  for (int s = 0; s < tiles; s++) {
    MILLRACE_UNROLL(2)
    for (int half = 0; half < 2; half++) {
      __m512 xs[kRows];
      MILLRACE_UNROLL(8)
      for (int row = 0; row < kRows; row++) xs[row] = _mm512_loadu_ps(x + row * x_stride + s * 32 + half * 16);
      MILLRACE_UNROLL(16)
      for (int g = 0; g < kGs; g++) {
        const std::byte* p = weights + (g * 32 + half * 16) * Type::kBytes;
        const __m512 w = Type::load(p);
        if (half == 0 || Type::kBytes == 4) {
          _mm_prefetch(reinterpret_cast<const char*>(p) + kPrefetch, _MM_HINT_T0);
        }
        MILLRACE_UNROLL(8)
        for (int row = 0; row < kRows; row++) sum[row][g] = _mm512_fmadd_ps(w, xs[row], sum[row][g]);
      }
    }
    weights += kTile;
  }
  MILLRACE_UNROLL(8)
  for (int row = 0; row < kRows; row++) {
    MILLRACE_UNROLL(16)
    for (int g = 0; g < kGs; g++) _mm512_store_ps(sums + row * 512 + g * 16, sum[row][g]);
  }
}

// The 64 results of sums (j, g) by lane.
inline void reduce_lanes(const float (*sums)[16], float* out) {
  for (int jg = 0; jg < 32; jg++, sums++) {
    // The lane's two halves, then h 0 (elements 0 1 4 5) and h 1 (elements 2 3 6 7).
    const __m512 v = _mm512_load_ps(*sums);
    const __m256 e = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    const __m128 pairs = _mm_add_ps(_mm256_castps256_ps128(e), _mm256_extractf128_ps(e, 1));  // h0 h0 h1 h1
    const __m128 result = _mm_add_ps(pairs, _mm_movehdup_ps(pairs));
    float* to = out + 8 * (jg % 8) + jg / 8;
    to[0] = _mm_cvtss_f32(result);
    to[4] = _mm_cvtss_f32(_mm_movehl_ps(result, result));
  }
}

template <typename Type, int kRows>
void dense_rows(const DenseRowBlock& a) {
  constexpr int kGs = kRows == 1 ? 16 : kRows == 2 ? 8 : kRows <= 4 ? 4 : 2;  // sums in flight: kRows * kGs
  constexpr int kTile = 1024 * Type::kBytes, kChunk = kChunkTiles<Type, kRows>;
  alignas(64) float sums[kRows][32][16];  // (j, g) by lane
  for (int i = 0; i < kRows * 32; i++) _mm512_store_ps(&sums[0][0][0] + i * 16, _mm512_setzero_ps());
  for (int begin = 0; begin < a.slices; begin += kChunk) {
    const int tiles = a.slices - begin < kChunk ? a.slices - begin : kChunk;
    for (int jg = 0; jg < 32; jg += kGs) {
      dense_chunk<Type, kRows, kGs>(a.weights + static_cast<ptrdiff_t>(begin) * kTile + jg * 32 * Type::kBytes, tiles,
                                    a.x + begin * 32, a.x_stride, &sums[0][jg][0]);
    }
  }
  for (int row = 0; row < kRows; row++) reduce_lanes(sums[row], a.out + row * 64);
}

template <typename Type>
void dense(const DenseRowBlock& a) {
  switch (a.rows) {
    case 1:
      return dense_rows<Type, 1>(a);
    case 2:
      return dense_rows<Type, 2>(a);
    case 3:
      return dense_rows<Type, 3>(a);
    case 4:
      return dense_rows<Type, 4>(a);
    case 5:
      return dense_rows<Type, 5>(a);
    case 6:
      return dense_rows<Type, 6>(a);
    case 7:
      return dense_rows<Type, 7>(a);
    default:
      return dense_rows<Type, kLinearDenseRows>(a);
  }
}

// e4m3 numbers become the floats that widen() makes, in registers, and are summed in dense_rows' order.
template <int kRows>
void e4m3_rows(const E4m3RowBlock& a) {
  constexpr int kGs = kRows == 1 ? 16 : 8;
  alignas(64) float sums[kRows][32][16];
  alignas(64) float factors[32][4];
  for (int i = 0; i < kRows * 32; i++) _mm512_store_ps(&sums[0][0][0] + i * 16, _mm512_setzero_ps());
  const std::byte* p = a.weights;
  const float* x = a.x;
  const __m256i sign = _mm256_set1_epi16(static_cast<int16_t>(0x8000)), size = _mm256_set1_epi16(0x3f80);
  for (int begin = 0; begin < a.slices; begin += a.group_tiles) {
    float scale[kTileN];
    std::memcpy(scale, p, sizeof(scale));
    p += sizeof(scale);
    for (int j = 0; j < 4; j++) {
      for (int g = 0; g < 8; g++) {
        float* factor = factors[8 * j + g];
        factor[0] = factor[1] = scale[8 * g + j] * 256.0f;
        factor[2] = factor[3] = scale[8 * g + 4 + j] * 256.0f;
      }
    }
    const int tiles = a.slices - begin < a.group_tiles ? a.slices - begin : a.group_tiles;
    for (int s = 0; s < tiles; s++, p += 1024, x += 32) {
      for (int jg = 0; jg < 32; jg += kGs) {
        __m512 sum[kRows][kGs];
        MILLRACE_UNROLL(2)
        for (int row = 0; row < kRows; row++) {
          MILLRACE_UNROLL(16)
          for (int g = 0; g < kGs; g++) sum[row][g] = _mm512_load_ps(sums[row][jg + g]);
        }
        MILLRACE_UNROLL(2)
        for (int half = 0; half < 2; half++) {
          __m512 xs[kRows];
          MILLRACE_UNROLL(2)
          for (int row = 0; row < kRows; row++) xs[row] = _mm512_loadu_ps(x + row * a.x_stride + half * 16);
          MILLRACE_UNROLL(16)
          for (int g = 0; g < kGs; g++) {
            const std::byte* at = p + (jg + g) * 32 + half * 16;
            const __m256i words = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
            if (half == 0 && g % 2 == 0) _mm_prefetch(reinterpret_cast<const char*>(at) + kPrefetch, _MM_HINT_T0);
            const __m256i halves = _mm256_or_si256(_mm256_and_si256(_mm256_slli_epi16(words, 8), sign),
                                                   _mm256_and_si256(_mm256_slli_epi16(words, 7), size));
            const __m512 factor = _mm512_broadcast_f32x4(_mm_load_ps(factors[jg + g]));
            const __m512 w = _mm512_mul_ps(_mm512_cvtph_ps(halves), factor);
            MILLRACE_UNROLL(2)
            for (int row = 0; row < kRows; row++) sum[row][g] = _mm512_fmadd_ps(w, xs[row], sum[row][g]);
          }
        }
        MILLRACE_UNROLL(2)
        for (int row = 0; row < kRows; row++) {
          MILLRACE_UNROLL(16)
          for (int g = 0; g < kGs; g++) _mm512_store_ps(sums[row][jg + g], sum[row][g]);
        }
      }
    }
  }
  for (int row = 0; row < kRows; row++) reduce_lanes(sums[row], a.out + row * 64);
}

void e4m3(const E4m3RowBlock& a) {
  if (a.rows == 1) return e4m3_rows<1>(a);
  e4m3_rows<kLinearE4m3Rows>(a);
}

}  // namespace

const LinearKernels kLinearAvx512 = {"avx512", kMostRows,  kLinearRows, quantize,
                                     q4,       q4_many,    code_avx512, code_widen<WordsAvx512>,
                                     e4m3,     dense<F16>, dense<Bf16>, dense<F32>};
const LinearKernels kLinearAvx512Vnni = {"avx512vnni",
                                         kMostRows,
                                         kLinearRows,
                                         quantize,
                                         linear_q4_avx512vnni,
                                         linear_q4_many_avx512vnni,
                                         linear_code_avx512vnni,
                                         code_widen<WordsAvx512>,
                                         e4m3,
                                         dense<F16>,
                                         dense<Bf16>,
                                         dense<F32>};

}  // namespace millrace
#endif
