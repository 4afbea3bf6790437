// Linears in AVX2 with FMA and F16C. See linear_q4_avx512.h for the masks and the factor 16 of h 1.
#if defined(__x86_64__)
#include <immintrin.h>

#include "backend/cpu/linear_kernels.h"

namespace millrace {
namespace {

constexpr int kTileBytes = 512;
constexpr int kLine = 64;
constexpr int kPrefetch = 4096;

inline __m256i load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }

void quantize(const float* x, int count, int16_t* q, float* scale, int32_t* sum) {
  __m256i magnitudes = _mm256_setzero_si256();
  for (int i = 0; i < count; i += 8) {
    magnitudes = _mm256_max_epu32(magnitudes, _mm256_and_si256(load(x + i), _mm256_set1_epi32(0x7fffffff)));
  }
  __m128i most = _mm_max_epu32(_mm256_castsi256_si128(magnitudes), _mm256_extracti128_si256(magnitudes, 1));
  most = _mm_max_epu32(most, _mm_shuffle_epi32(most, 0x4e));
  most = _mm_max_epu32(most, _mm_shuffle_epi32(most, 0xb1));
  const auto largest = static_cast<uint32_t>(_mm_cvtsi128_si32(most));
  const float max_abs = _mm_cvtss_f32(_mm_castsi128_ps(most));
  if (largest >= 0x7f800000u || max_abs < kLinearTinyBlock) {
    *scale = largest >= 0x7f800000u ? __builtin_nanf("") : 0.0f;
    *sum = 0;
    for (int i = 0; i < count; i += 16) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(q + i), _mm256_setzero_si256());
    }
    return;
  }
  const __m256 inverse = _mm256_set1_ps(32767.0f / max_abs);
  const __m256 round = _mm256_set1_ps(0x1.8p23f);  // adding it leaves the nearest integer in the mantissa
  const __m256i offset = _mm256_set1_epi32(0x4b400000);
  __m256i total = _mm256_setzero_si256();
  for (int i = 0; i < count; i += 16) {
    __m256i v[2];
    for (int half = 0; half < 2; half++) {
      const __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(x + i + 8 * half), inverse);
      v[half] = _mm256_sub_epi32(_mm256_castps_si256(_mm256_add_ps(scaled, round)), offset);
      total = _mm256_add_epi32(total, v[half]);
    }
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packs_epi32(v[0], v[1]), 0xd8);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(q + i), packed);
  }
  *scale = max_abs / 32767.0f;
  __m128i t = _mm_add_epi32(_mm256_castsi256_si128(total), _mm256_extracti128_si256(total, 1));
  t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0x4e));
  t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0xb1));
  *sum = _mm_cvtsi128_si32(t);
}

inline __m256 load_scales(const std::byte* p, bool bf16) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  if (bf16) return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  return _mm256_cvtph_ps(bits);
}

// Half a line: lanes [t % 2][j] of t 0, 1 or t 2, 3.
inline void add_half_line(const std::byte* p, __m256i x0, __m256i x1, __m256i low, __m256i high, __m256i& sum0,
                          __m256i& sum1) {
  const __m256i line = load(p);
  const __m256i next = _mm256_srli_epi32(line, 8);
  sum0 = _mm256_add_epi32(sum0, _mm256_madd_epi16(_mm256_and_si256(line, low), x0));
  sum1 = _mm256_add_epi32(sum1, _mm256_madd_epi16(_mm256_and_si256(line, high), x0));
  sum0 = _mm256_add_epi32(sum0, _mm256_madd_epi16(_mm256_and_si256(next, low), x1));
  sum1 = _mm256_add_epi32(sum1, _mm256_madd_epi16(_mm256_and_si256(next, high), x1));
}

// Sums over t of h 0 and h 1 of one g, scaled into out[8 g ..].
inline void finish(__m256i sum0, __m256i sum1, __m256i zeros, __m256 scales, int32_t x_sum, float x_scale, float* out) {
  const __m256i shifts = _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4);
  __m256i r = _mm256_add_epi32(_mm256_permute2x128_si256(sum0, sum1, 0x20), _mm256_permute2x128_si256(sum0, sum1, 0x31));
  r = _mm256_sub_epi32(_mm256_srav_epi32(r, shifts), _mm256_mullo_epi32(zeros, _mm256_set1_epi32(x_sum)));
  const __m256 factor = _mm256_mul_ps(scales, _mm256_set1_ps(x_scale));
  _mm256_storeu_ps(out, _mm256_add_ps(_mm256_loadu_ps(out), _mm256_mul_ps(_mm256_cvtepi32_ps(r), factor)));
}

template <int kRows>
void q4_rows(const Q4RowBlock& a) {
  constexpr int kGs = kRows == 1 ? 4 : 1;  // lines of a tile in flight
  const std::byte* p = a.weights;
  const int16_t* x = a.x;
  const float* x_scales = a.scales;
  const int32_t* x_sums = a.sums;
  const __m256i low = _mm256_set1_epi32(0x000f000f), high = _mm256_set1_epi32(0x00f000f0);
  const __m256i first = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1), two = _mm256_set1_epi32(2);
  const int header = a.zeros ? 192 : 128;
  for (int i = 0; i < kRows * 64; i += 8) _mm256_storeu_ps(a.out + i, _mm256_setzero_ps());
  // x of a block, spread to the lanes of half lines: pair 0 of t 0, 1; of t 2, 3; pair 1 of t 0, 1; of t 2, 3.
  alignas(32) __m256i spread[kRows][kLinearMaxBlock / 16][4];
  for (int tile = 0; tile < a.slices; tile += a.group_tiles) {
    const std::byte* group = p;
    p += header;
    const int group_end = tile + a.group_tiles < a.slices ? tile + a.group_tiles : a.slices;
    for (int begin = tile; begin < group_end; begin += a.block_tiles) {
      const int tiles = group_end - begin < a.block_tiles ? group_end - begin : a.block_tiles;
      for (int row = 0; row < kRows; row++) {
        for (int s = 0; s < tiles; s++) {
          const __m256i xs = load(x);
          __m256i index = first;
          for (int i = 0; i < 4; i++) {
            spread[row][s][i] = _mm256_permutevar8x32_epi32(xs, index);
            index = _mm256_add_epi32(index, two);
          }
          x += 16;
        }
      }
      for (int g = 0; g < 8; g += kGs) {
        __m256i sum[kRows][kGs][2];
#pragma GCC unroll 4
        for (int row = 0; row < kRows; row++) {
#pragma GCC unroll 4
          for (int i = 0; i < kGs; i++) sum[row][i][0] = sum[row][i][1] = _mm256_setzero_si256();
        }
        const std::byte* line = p + g * kLine;
        for (int s = 0; s < tiles; s++) {
          if constexpr (kRows == 1) {
            const __m256i x0 = spread[0][s][0], x1 = spread[0][s][2];
#pragma GCC unroll 4
            for (int i = 0; i < kGs; i++) {
              _mm_prefetch(reinterpret_cast<const char*>(line) + i * kLine + kPrefetch, _MM_HINT_T0);
              add_half_line(line + i * kLine, x0, x1, low, high, sum[0][i][0], sum[0][i][1]);
            }
            const __m256i x2 = spread[0][s][1], x3 = spread[0][s][3];
#pragma GCC unroll 4
            for (int i = 0; i < kGs; i++) {
              add_half_line(line + i * kLine + 32, x2, x3, low, high, sum[0][i][0], sum[0][i][1]);
            }
          } else {
            _mm_prefetch(reinterpret_cast<const char*>(line) + kPrefetch, _MM_HINT_T0);
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
              const __m256i words = load(line + 32 * half);
              const __m256i next = _mm256_srli_epi32(words, 8);
              const __m256i w0 = _mm256_and_si256(words, low), w1 = _mm256_and_si256(words, high);
              const __m256i w2 = _mm256_and_si256(next, low), w3 = _mm256_and_si256(next, high);
#pragma GCC unroll 4
              for (int row = 0; row < kRows; row++) {
                const __m256i x0 = spread[row][s][half], x1 = spread[row][s][2 + half];
                sum[row][0][0] = _mm256_add_epi32(
                    sum[row][0][0], _mm256_add_epi32(_mm256_madd_epi16(w0, x0), _mm256_madd_epi16(w2, x1)));
                sum[row][0][1] = _mm256_add_epi32(
                    sum[row][0][1], _mm256_add_epi32(_mm256_madd_epi16(w1, x0), _mm256_madd_epi16(w3, x1)));
              }
            }
          }
          line += kTileBytes;
        }
#pragma GCC unroll 4
        for (int i = 0; i < kGs; i++) {
          const int at = g + i;
          const __m256i zeros =
              a.zeros ? _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(group + 128 + 8 * at)))
                      : _mm256_set1_epi32(8);
          const __m256 scales = load_scales(group + 16 * at, a.bf16_scales);
#pragma GCC unroll 4
          for (int row = 0; row < kRows; row++) {
            finish(sum[row][i][0], sum[row][i][1], zeros, scales, x_sums[row], x_scales[row],
                   a.out + row * 64 + 8 * at);
          }
        }
      }
      p += static_cast<ptrdiff_t>(tiles) * kTileBytes;
      x_sums += kRows;
      x_scales += kRows;
    }
  }
}

void q4(const Q4RowBlock& a) {
  switch (a.rows) {
    case 1:
      return q4_rows<1>(a);
    case 2:
      return q4_rows<2>(a);
    case 3:
      return q4_rows<3>(a);
    default:
      return q4_rows<4>(a);
  }
}

struct F16 {
  static constexpr int kBytes = 2;
  static __m256 load(const std::byte* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
};
struct Bf16 {
  static constexpr int kBytes = 2;
  static __m256 load(const std::byte* p) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
};
struct F32 {
  static constexpr int kBytes = 4;
  static __m256 load(const std::byte* p) { return _mm256_loadu_ps(reinterpret_cast<const float*>(p)); }
};

constexpr int kChunkTiles = 8;

// As in linear_avx512.cc, with eight lanes: one t at a time.
template <typename Type, int kRows, int kGs>
inline void dense_chunk(const std::byte* weights, int tiles, const float* x, int64_t x_stride, float* sums) {
  constexpr int kTile = 1024 * Type::kBytes;
  __m256 sum[kRows][kGs];
#pragma GCC unroll 4
  for (int row = 0; row < kRows; row++) {
#pragma GCC unroll 8
    for (int g = 0; g < kGs; g++) sum[row][g] = _mm256_load_ps(sums + row * 256 + g * 8);
  }
  for (int s = 0; s < tiles; s++) {
#pragma GCC unroll 4
    for (int t = 0; t < 4; t++) {
      __m256 xs[kRows];
#pragma GCC unroll 4
      for (int row = 0; row < kRows; row++) xs[row] = _mm256_loadu_ps(x + row * x_stride + s * 32 + t * 8);
#pragma GCC unroll 8
      for (int g = 0; g < kGs; g++) {
        const std::byte* p = weights + (g * 32 + t * 8) * Type::kBytes;
        const __m256 w = Type::load(p);
        if (kRows == 1 && t * 8 * Type::kBytes % 64 == 0) {
          _mm_prefetch(reinterpret_cast<const char*>(p) + kChunkTiles * kTile, _MM_HINT_T0);
        }
#pragma GCC unroll 4
        for (int row = 0; row < kRows; row++) sum[row][g] = _mm256_fmadd_ps(w, xs[row], sum[row][g]);
      }
    }
    weights += kTile;
  }
#pragma GCC unroll 4
  for (int row = 0; row < kRows; row++) {
#pragma GCC unroll 8
    for (int g = 0; g < kGs; g++) _mm256_store_ps(sums + row * 256 + g * 8, sum[row][g]);
  }
}

template <typename Type, int kRows>
void dense_rows(const DenseRowBlock& a) {
  constexpr int kGs = kRows == 1 ? 8 : kRows == 2 ? 4 : 2;
  constexpr int kTile = 1024 * Type::kBytes;
  alignas(32) float sums[kRows][32][8];  // (j, g) by element
  for (int i = 0; i < kRows * 32; i++) _mm256_store_ps(&sums[0][0][0] + i * 8, _mm256_setzero_ps());
  for (int begin = 0; begin < a.slices; begin += kChunkTiles) {
    const int tiles = a.slices - begin < kChunkTiles ? a.slices - begin : kChunkTiles;
    for (int jg = 0; jg < 32; jg += kGs) {
      dense_chunk<Type, kRows, kGs>(a.weights + static_cast<ptrdiff_t>(begin) * kTile + jg * 32 * Type::kBytes, tiles,
                                    a.x + begin * 32, a.x_stride, &sums[0][jg][0]);
    }
  }
  for (int row = 0; row < kRows; row++) {
    for (int jg = 0; jg < 32; jg++) {
      const __m256 e = _mm256_load_ps(sums[row][jg]);
      const __m128 pairs = _mm_add_ps(_mm256_castps256_ps128(e), _mm256_extractf128_ps(e, 1));  // h0 h0 h1 h1
      const __m128 result = _mm_add_ps(pairs, _mm_movehdup_ps(pairs));
      float* out = a.out + row * 64 + 8 * (jg % 8) + jg / 8;
      out[0] = _mm_cvtss_f32(result);
      out[4] = _mm_cvtss_f32(_mm_movehl_ps(result, result));
    }
  }
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
    default:
      return dense_rows<Type, 4>(a);
  }
}

}  // namespace

const LinearKernels kLinearAvx2 = {"avx2", 4, quantize, q4, dense<F16>, dense<Bf16>, dense<F32>};

}  // namespace millrace
#endif
