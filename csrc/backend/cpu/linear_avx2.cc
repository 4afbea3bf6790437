// Linears in AVX2 with FMA and F16C. See linear_q4_avx512.h for the masks and the factor 16 of h 1.
#if defined(__x86_64__)
#include <immintrin.h>

#include "backend/cpu/linear_code_body.h"
#include "backend/cpu/linear_kernels.h"
#include "backend/cpu/words_avx2.h"

namespace millrace {
namespace {

constexpr int kTileBytes = 512;
constexpr int kLine = 64;
constexpr int kPrefetch = 8192;  // bytes ahead of the line in use

inline __m256i load(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}

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

// sum + weights . x. The empty statement keeps the compiler from adding many products as a tree, which it spills.
inline __m256i dot(__m256i sum, __m256i weights, __m256i x) {
  sum = _mm256_add_epi32(sum, _mm256_madd_epi16(weights, x));
  asm("" : "+x"(sum));
  return sum;
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
  sum0 = dot(sum0, _mm256_and_si256(line, low), x0);
  sum1 = dot(sum1, _mm256_and_si256(line, high), x0);
  sum0 = dot(sum0, _mm256_and_si256(next, low), x1);
  sum1 = dot(sum1, _mm256_and_si256(next, high), x1);
}

inline __m256i load_zeros(const std::byte* group, int g, bool zeros) {
  if (!zeros) return _mm256_set1_epi32(8);
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(group + 128 + 8 * g)));
}

inline __m256i broadcast_pair(const int16_t* x) {
  int32_t pair;
  __builtin_memcpy(&pair, x, 4);
  return _mm256_set1_epi32(pair);
}

// Adds a block's sums of one g to its eight results.
inline void finish(__m256i sum, __m256i zeros, __m256 scales, int32_t x_sum, float x_scale, float* out) {
  const __m256i exact = _mm256_sub_epi32(sum, _mm256_mullo_epi32(zeros, _mm256_set1_epi32(x_sum)));
  const __m256 factor = _mm256_mul_ps(scales, _mm256_set1_ps(x_scale));
  _mm256_storeu_ps(out, _mm256_add_ps(_mm256_loadu_ps(out), _mm256_mul_ps(_mm256_cvtepi32_ps(exact), factor)));
}

// One row: four lines in flight, half a line at a time.
void q4_single(const Q4RowBlock& a) {
  constexpr int kGs = 4;
  const std::byte* p = a.weights;
  const int16_t* x = a.x;
  const float* x_scale = a.scales;
  const int32_t* x_sum = a.sums;
  const __m256i low = _mm256_set1_epi32(0x000f000f), high = _mm256_set1_epi32(0x00f000f0);
  const __m256i first = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1), two = _mm256_set1_epi32(2);
  const int header = a.zeros ? 192 : 128;
  for (int i = 0; i < 64; i += 8) _mm256_storeu_ps(a.out + i, _mm256_setzero_ps());
  // x of a block, spread to the lanes of half lines: pair 0 of t 0, 1; of t 2, 3; pair 1 of t 0, 1; of t 2, 3.
  __m256i spread[kLinearMaxBlock / 16][4];
  for (int tile = 0; tile < a.slices; tile += a.group_tiles) {
    const std::byte* group = p;
    p += header;
    const int group_end = tile + a.group_tiles < a.slices ? tile + a.group_tiles : a.slices;
    for (int begin = tile; begin < group_end; begin += a.block_tiles) {
      const int tiles = group_end - begin < a.block_tiles ? group_end - begin : a.block_tiles;
      for (int s = 0; s < tiles; s++) {
        const __m256i xs = load(x);
        __m256i index = first;
        for (int i = 0; i < 4; i++) {
          spread[s][i] = _mm256_permutevar8x32_epi32(xs, index);
          index = _mm256_add_epi32(index, two);
        }
        x += 16;
      }
      for (int g = 0; g < 8; g += kGs) {
        __m256i sum[kGs][2];
        MILLRACE_UNROLL(4)
        for (int i = 0; i < kGs; i++) sum[i][0] = sum[i][1] = _mm256_setzero_si256();
        const std::byte* line = p + g * kLine;
        for (int s = 0; s < tiles; s++) {
          MILLRACE_UNROLL(2)
          for (int half = 0; half < 2; half++) {
            const __m256i x0 = spread[s][half], x1 = spread[s][2 + half];
            MILLRACE_UNROLL(4)
            for (int i = 0; i < kGs; i++) {
              if (half == 0) _mm_prefetch(reinterpret_cast<const char*>(line) + i * kLine + kPrefetch, _MM_HINT_T0);
              add_half_line(line + i * kLine + 32 * half, x0, x1, low, high, sum[i][0], sum[i][1]);
            }
          }
          line += kTileBytes;
        }
        MILLRACE_UNROLL(4)
        for (int i = 0; i < kGs; i++) {
          const int at = g + i;
          // Over t: the two halves of h 0 and h 1 become one vector.
          const __m256i both = _mm256_add_epi32(_mm256_permute2x128_si256(sum[i][0], sum[i][1], 0x20),
                                                _mm256_permute2x128_si256(sum[i][0], sum[i][1], 0x31));
          const __m256i total = _mm256_srav_epi32(both, _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4));
          finish(total, load_zeros(group, at, a.zeros), load_scales(group + 16 * at, a.bf16_scales), *x_sum, *x_scale,
                 a.out + 8 * at);
        }
      }
      p += static_cast<ptrdiff_t>(tiles) * kTileBytes;
      x_sum++;
      x_scale++;
    }
  }
}

// Several rows: the eight outputs of one g at a time, lanes [h][j], so that an x operand is an int32 broadcast and
// nothing is left to reduce.
template <int kRows>
void q4_batch(const Q4RowBlock& a) {
  const std::byte* p = a.weights;
  const int16_t* x = a.x;
  const float* x_scales = a.scales;
  const int32_t* x_sums = a.sums;
  const __m256i mask = _mm256_set1_epi32(0x000f000f);
  const __m256i shift0 = _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4);
  const __m256i shift1 = _mm256_setr_epi32(8, 8, 8, 8, 12, 12, 12, 12);
  const int header = a.zeros ? 192 : 128;
  for (int i = 0; i < kRows * 64; i += 8) _mm256_storeu_ps(a.out + i, _mm256_setzero_ps());
  for (int tile = 0; tile < a.slices; tile += a.group_tiles) {
    const std::byte* group = p;
    p += header;
    const int group_end = tile + a.group_tiles < a.slices ? tile + a.group_tiles : a.slices;
    for (int begin = tile; begin < group_end; begin += a.block_tiles) {
      const int tiles = group_end - begin < a.block_tiles ? group_end - begin : a.block_tiles;
      const ptrdiff_t stride = 16 * tiles;
      for (int g = 0; g < 8; g++) {
        __m256i sum[kRows];
        MILLRACE_UNROLL(8)
        for (int row = 0; row < kRows; row++) sum[row] = _mm256_setzero_si256();
        const std::byte* line = p + g * kLine;
        const int16_t* xp = x;
        for (int s = 0; s < tiles; s++) {
          _mm_prefetch(reinterpret_cast<const char*>(line) + kPrefetch, _MM_HINT_T0);
          MILLRACE_UNROLL(4)
          for (int t = 0; t < 4; t++) {
            const __m256i words =
                _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(line + 16 * t)));
            const __m256i w0 = _mm256_and_si256(_mm256_srlv_epi32(words, shift0), mask);
            const __m256i w1 = _mm256_and_si256(_mm256_srlv_epi32(words, shift1), mask);
            MILLRACE_UNROLL(8)
            for (int row = 0; row < kRows; row++) {
              const int16_t* xr = xp + row * stride + 2 * t;
              sum[row] = dot(dot(sum[row], w0, broadcast_pair(xr)), w1, broadcast_pair(xr + 8));
            }
          }
          line += kTileBytes;
          xp += 16;
        }
        const __m256i zeros = load_zeros(group, g, a.zeros);
        const __m256 scales = load_scales(group + 16 * g, a.bf16_scales);
        MILLRACE_UNROLL(8)
        for (int row = 0; row < kRows; row++) {
          finish(sum[row], zeros, scales, x_sums[row], x_scales[row], a.out + row * 64 + 8 * g);
        }
      }
      p += static_cast<ptrdiff_t>(tiles) * kTileBytes;
      x += kRows * stride;
      x_sums += kRows;
      x_scales += kRows;
    }
  }
}

constexpr int kMostRows = 8;

void q4(const Q4RowBlock& a) {
  switch (a.rows) {
    case 1:
      return q4_single(a);
    case 2:
      return q4_batch<2>(a);
    case 3:
      return q4_batch<3>(a);
    case 4:
      return q4_batch<4>(a);
    case 5:
      return q4_batch<5>(a);
    case 6:
      return q4_batch<6>(a);
    case 7:
      return q4_batch<7>(a);
    default:
      return q4_batch<kMostRows>(a);
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

// Tiles that a sum takes in before it goes back to memory. DRAM is read fastest in the tiles' own order, a tile at a
// time; with more rows fewer loads and stores of sums count more. The order of additions does not depend on it.
template <typename Type, int kRows>
inline constexpr int kChunkTiles = Type::kBytes == 4 ? (kRows == 1 ? 4 : 2) : (kRows > 2 ? 2 : 1);

// As in linear_avx512.cc, with eight lanes: one t at a time.
template <typename Type, int kRows, int kGs>
inline void dense_chunk(const std::byte* weights, int tiles, const float* x, int64_t x_stride, float* sums) {
  constexpr int kTile = 1024 * Type::kBytes;
  __m256 sum[kRows][kGs];
  MILLRACE_UNROLL(8)
  for (int row = 0; row < kRows; row++) {
    MILLRACE_UNROLL(16)
    for (int g = 0; g < kGs; g++) sum[row][g] = _mm256_load_ps(sums + row * 256 + g * 8);
  }
  for (int s = 0; s < tiles; s++) {
    MILLRACE_UNROLL(4)
    for (int t = 0; t < 4; t++) {
      __m256 xs[kRows];
      MILLRACE_UNROLL(8)
      for (int row = 0; row < kRows; row++) xs[row] = _mm256_loadu_ps(x + row * x_stride + s * 32 + t * 8);
      MILLRACE_UNROLL(16)
      for (int g = 0; g < kGs; g++) {
        const std::byte* p = weights + (g * 32 + t * 8) * Type::kBytes;
        const __m256 w = Type::load(p);
        if (t * 8 * Type::kBytes % 64 == 0) {
          _mm_prefetch(reinterpret_cast<const char*>(p) + kPrefetch, _MM_HINT_T0);
        }
        MILLRACE_UNROLL(8)
        for (int row = 0; row < kRows; row++) sum[row][g] = _mm256_fmadd_ps(w, xs[row], sum[row][g]);
      }
    }
    weights += kTile;
  }
  MILLRACE_UNROLL(8)
  for (int row = 0; row < kRows; row++) {
    MILLRACE_UNROLL(16)
    for (int g = 0; g < kGs; g++) _mm256_store_ps(sums + row * 256 + g * 8, sum[row][g]);
  }
}

template <typename Type, int kRows>
void dense_rows(const DenseRowBlock& a) {
  constexpr int kGs = kRows == 1 ? 8 : kRows == 2 ? 4 : kRows <= 4 ? 2 : 1;  // sums in flight: kRows * kGs
  constexpr int kTile = 1024 * Type::kBytes, kChunk = kChunkTiles<Type, kRows>;
  alignas(32) float sums[kRows][32][8];  // (j, g) by element
  for (int i = 0; i < kRows * 32; i++) _mm256_store_ps(&sums[0][0][0] + i * 8, _mm256_setzero_ps());
  for (int begin = 0; begin < a.slices; begin += kChunk) {
    const int tiles = a.slices - begin < kChunk ? a.slices - begin : kChunk;
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

}  // namespace

const LinearKernels kLinearAvx2 = {
    "avx2",  kMostRows,  kCodeRows,   quantize,  q4, nullptr, code_linear<WordsAvx2>, code_widen<WordsAvx2>,
    nullptr, dense<F16>, dense<Bf16>, dense<F32>};

}  // namespace millrace
#endif
