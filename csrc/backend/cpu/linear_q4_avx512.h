// The q4 kernels in AVX-512, for the two files that compile them with and without VNNI. Everything is in an unnamed
// namespace: each file keeps its own code.
//
// A line (64 bytes) of a tile is one g: int32 lanes [t][j]. Masks 0x000f000f and 0x00f000f0 of the line and of the
// line >> 8 give int16 pairs of weights for A registers 0, 1 (times 16), 2, 3 (times 16). h 1 is summed times 16 and
// shifted back at a block's end: 128 * 15 * 32767 * 16 < 2^31, so nothing is lost and two shifts a line are saved.
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12's own AVX-512 headers trip these (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include "backend/cpu/linear_kernels.h"

namespace millrace {
namespace {

#if defined(__AVX512VNNI__)
inline __m512i dot(__m512i sum, __m512i weights, __m512i x) {
#if defined(__clang__)
  return _mm512_dpwssd_epi32(sum, weights, x);
#else
  // GCC 12 surrounds the intrinsic with register moves and spills the sums: half the speed.
  asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(weights), "v"(x));
  return sum;
#endif
}
#else
inline __m512i dot(__m512i sum, __m512i weights, __m512i x) {
  sum = _mm512_add_epi32(sum, _mm512_madd_epi16(weights, x));
  asm("" : "+v"(sum));  // or the compiler adds many products as a tree, which it spills
  return sum;
}
#endif

inline __m512i broadcast_pair(const int16_t* x) {
  int32_t pair;
  __builtin_memcpy(&pair, x, 4);
  return _mm512_set1_epi32(pair);
}

constexpr int kLine = 64;
constexpr int kTileBytes = 512;
constexpr int kPrefetch = 8192;  // bytes ahead of the line in use: two blocks of 128, 0.2 us at the speed of DRAM

inline __m512 load_scales(const std::byte* p, bool bf16) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  if (bf16) return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  return _mm512_cvtph_ps(bits);
}

inline __m512i load_zeros(const std::byte* p) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

// One row. Sixteen sums (8 g x 2 h) of int32 lanes [t][j]; memory bound, so one pass over the lines in their order.
void q4_single(const Q4RowBlock& a) {
  const std::byte* p = a.weights;
  const int16_t* x = a.x;
  const float* x_scale = a.scales;
  const int32_t* x_sum = a.sums;
  const __m512i low = _mm512_set1_epi32(0x000f000f), high = _mm512_set1_epi32(0x00f000f0);
  const __m512i pair0 = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
  const __m512i pair1 = _mm512_setr_epi32(4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7);
  const __m512i shifts = _mm512_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4, 0, 0, 0, 0, 4, 4, 4, 4);
  const int header = a.zeros ? 192 : 128;
  __m512 out[4];
  for (int i = 0; i < 4; i++) out[i] = _mm512_setzero_ps();
  for (int tile = 0; tile < a.slices; tile += a.group_tiles) {
    const std::byte* group = p;
    p += header;
    const int group_end = tile + a.group_tiles < a.slices ? tile + a.group_tiles : a.slices;
    for (int begin = tile; begin < group_end; begin += a.block_tiles) {
      const int tiles = group_end - begin < a.block_tiles ? group_end - begin : a.block_tiles;
      __m512i sum[8][2];
      MILLRACE_UNROLL(8)
      for (int g = 0; g < 8; g++) sum[g][0] = sum[g][1] = _mm512_setzero_si512();
      for (int s = 0; s < tiles; s++) {
        const __m512i xs = _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)));
        const __m512i x0 = _mm512_permutexvar_epi32(pair0, xs), x1 = _mm512_permutexvar_epi32(pair1, xs);
        MILLRACE_UNROLL(8)
        for (int g = 0; g < 8; g++) {
          const __m512i line = _mm512_loadu_si512(p + g * kLine);
          const __m512i next = _mm512_srli_epi32(line, 8);
          _mm_prefetch(reinterpret_cast<const char*>(p) + g * kLine + kPrefetch, _MM_HINT_T0);
          sum[g][0] = dot(sum[g][0], _mm512_and_si512(line, low), x0);
          sum[g][1] = dot(sum[g][1], _mm512_and_si512(line, high), x0);
          sum[g][0] = dot(sum[g][0], _mm512_and_si512(next, low), x1);
          sum[g][1] = dot(sum[g][1], _mm512_and_si512(next, high), x1);
        }
        p += kTileBytes;
        x += 16;
      }
      const __m512i total = _mm512_set1_epi32(*x_sum);
      const __m512 scale = _mm512_set1_ps(*x_scale);
      MILLRACE_UNROLL(4)
      for (int i = 0; i < 4; i++) {  // over t: the four 128-bit quarters of four sums become one vector
        const __m512i a0 = sum[2 * i][0], a1 = sum[2 * i][1], a2 = sum[2 * i + 1][0], a3 = sum[2 * i + 1][1];
        const __m512i u = _mm512_add_epi32(_mm512_shuffle_i32x4(a0, a1, 0x44), _mm512_shuffle_i32x4(a0, a1, 0xee));
        const __m512i v = _mm512_add_epi32(_mm512_shuffle_i32x4(a2, a3, 0x44), _mm512_shuffle_i32x4(a2, a3, 0xee));
        __m512i r = _mm512_add_epi32(_mm512_shuffle_i32x4(u, v, 0x88), _mm512_shuffle_i32x4(u, v, 0xdd));
        const __m512i zeros =
            a.zeros ? _mm512_mullo_epi32(load_zeros(group + 128 + 16 * i), total) : _mm512_slli_epi32(total, 3);
        r = _mm512_sub_epi32(_mm512_srav_epi32(r, shifts), zeros);
        const __m512 factor = _mm512_mul_ps(load_scales(group + 32 * i, a.bf16_scales), scale);
        out[i] = _mm512_add_ps(out[i], _mm512_mul_ps(_mm512_cvtepi32_ps(r), factor));
      }
      x_sum++;
      x_scale++;
    }
  }
  for (int i = 0; i < 4; i++) _mm512_storeu_ps(a.out + 16 * i, out[i]);
}

// Two to four rows: a line's weights are taken apart once for all of them. The line is turned to lanes [j][t], so that
// an x operand is one 128-bit broadcast load and t is reduced within quarters. Results are kept in lanes [j][g % 2][h]
// and put into tile_index() order at the end.
template <int kRows>
void q4_rows(const Q4RowBlock& a) {
  constexpr int kGs = kRows <= 2 ? 4 : kRows <= 4 ? 2 : 1;  // lines of a tile in flight: enough sums to hide latency
  const std::byte* p = a.weights;
  const int16_t* x = a.x;
  const float* x_scales = a.scales;
  const int32_t* x_sums = a.sums;
  const __m512i low = _mm512_set1_epi32(0x000f000f), high = _mm512_set1_epi32(0x00f000f0);
  const __m512i turn = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);  // its own inverse
  const __m512i shifts = _mm512_setr_epi32(0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4);
  const int header = a.zeros ? 192 : 128;
  __m512 out[kRows][4];
  for (int row = 0; row < kRows; row++) {
    for (int i = 0; i < 4; i++) out[row][i] = _mm512_setzero_ps();
  }
  for (int tile = 0; tile < a.slices; tile += a.group_tiles) {
    __m512 scales[4];
    __m512i zeros[4];
    for (int i = 0; i < 4; i++) {
      scales[i] = _mm512_permutexvar_ps(turn, load_scales(p + 32 * i, a.bf16_scales));
      zeros[i] = a.zeros ? _mm512_permutexvar_epi32(turn, load_zeros(p + 128 + 16 * i)) : _mm512_set1_epi32(8);
    }
    p += header;
    const int group_end = tile + a.group_tiles < a.slices ? tile + a.group_tiles : a.slices;
    for (int begin = tile; begin < group_end; begin += a.block_tiles) {
      const int tiles = group_end - begin < a.block_tiles ? group_end - begin : a.block_tiles;
      const ptrdiff_t stride = 16 * tiles;
      __m512i halves[8][kRows];  // t summed in pairs: lanes [j][t % 2][h] of each g
      for (int g = 0; g < 8; g += kGs) {
        __m512i sum[kRows][kGs][2];
        MILLRACE_UNROLL(8)
        for (int row = 0; row < kRows; row++) {
          MILLRACE_UNROLL(4)
          for (int i = 0; i < kGs; i++) sum[row][i][0] = sum[row][i][1] = _mm512_setzero_si512();
        }
        const std::byte* line_p = p + g * kLine;
        const int16_t* xp = x;
        for (int s = 0; s < tiles; s++) {
          MILLRACE_UNROLL(4)
          for (int i = 0; i < kGs; i++) {
            const __m512i line = _mm512_permutexvar_epi32(turn, _mm512_loadu_si512(line_p + i * kLine));
            _mm_prefetch(reinterpret_cast<const char*>(line_p) + i * kLine + kPrefetch, _MM_HINT_T0);
            const __m512i next = _mm512_srli_epi32(line, 8);
            const __m512i w0 = _mm512_and_si512(line, low), w1 = _mm512_and_si512(line, high);
            const __m512i w2 = _mm512_and_si512(next, low), w3 = _mm512_and_si512(next, high);
            MILLRACE_UNROLL(8)
            for (int row = 0; row < kRows; row++) {
              const auto* xr = reinterpret_cast<const __m128i*>(xp + row * stride);
              const __m512i x0 = _mm512_broadcast_i32x4(_mm_loadu_si128(xr));
              const __m512i x1 = _mm512_broadcast_i32x4(_mm_loadu_si128(xr + 1));
              sum[row][i][0] = dot(dot(sum[row][i][0], w0, x0), w2, x1);
              sum[row][i][1] = dot(dot(sum[row][i][1], w1, x0), w3, x1);
            }
          }
          line_p += kTileBytes;
          xp += 16;
        }
        MILLRACE_UNROLL(8)
        for (int row = 0; row < kRows; row++) {
          MILLRACE_UNROLL(4)
          for (int i = 0; i < kGs; i++) {
            halves[g + i][row] = _mm512_add_epi32(_mm512_unpacklo_epi32(sum[row][i][0], sum[row][i][1]),
                                                  _mm512_unpackhi_epi32(sum[row][i][0], sum[row][i][1]));
          }
        }
      }
      for (int row = 0; row < kRows; row++) {
        const __m512i total = _mm512_set1_epi32(x_sums[row]);
        const __m512 scale = _mm512_set1_ps(x_scales[row]);
        MILLRACE_UNROLL(4)
        for (int i = 0; i < 4; i++) {
          const __m512i u = halves[2 * i][row], v = halves[2 * i + 1][row];
          __m512i r = _mm512_add_epi32(_mm512_unpacklo_epi64(u, v), _mm512_unpackhi_epi64(u, v));
          r = _mm512_sub_epi32(_mm512_srav_epi32(r, shifts), _mm512_mullo_epi32(zeros[i], total));
          out[row][i] =
              _mm512_add_ps(out[row][i], _mm512_mul_ps(_mm512_cvtepi32_ps(r), _mm512_mul_ps(scales[i], scale)));
        }
      }
      p += static_cast<ptrdiff_t>(tiles) * kTileBytes;
      x += kRows * stride;
      x_sums += kRows;
      x_scales += kRows;
    }
  }
  for (int row = 0; row < kRows; row++) {
    for (int i = 0; i < 4; i++) _mm512_storeu_ps(a.out + row * 64 + 16 * i, _mm512_permutexvar_ps(turn, out[row][i]));
  }
}

// The eight pairs of k of a tile for outputs 16 i .. 16 i + 15 of tile_index() order, from the lines a (g = 2 i) and b
// (g = 2 i + 1): pairs[t] is k 2t, 2t + 1 and pairs[4 + t] is k 2t + 8, 2t + 9.
inline void expand_lines(__m512i a, __m512i b, __m512i pairs[8]) {
  const __m512i mask = _mm512_set1_epi32(0x000f000f);
  const __m512i shift0 = _mm512_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4, 0, 0, 0, 0, 4, 4, 4, 4);
  const __m512i shift1 = _mm512_add_epi32(shift0, _mm512_set1_epi32(8));
  // One t of both lines, [a a b b], for the outputs [g h 0, g h 1, g + 1 h 0, g + 1 h 1].
  const __m512i words[4] = {_mm512_shuffle_i32x4(a, b, 0x00), _mm512_shuffle_i32x4(a, b, 0x55),
                            _mm512_shuffle_i32x4(a, b, 0xaa), _mm512_shuffle_i32x4(a, b, 0xff)};
  MILLRACE_UNROLL(4)
  for (int t = 0; t < 4; t++) {
    pairs[t] = _mm512_and_si512(_mm512_srlv_epi32(words[t], shift0), mask);
    pairs[4 + t] = _mm512_and_si512(_mm512_srlv_epi32(words[t], shift1), mask);
  }
}

// More rows: 32 outputs at a time (i = 2 q and 2 q + 1 of expand_lines), their weights turned to one output a lane, so
// that an x operand is an int32 broadcast and nothing is left to reduce. Half of the k of a tile at a time: eight
// vectors of weights and two sums a row fit the registers.
template <int kRows>
void q4_batch(const Q4RowBlock& a) {
  const std::byte* p = a.weights;
  const int16_t* x = a.x;
  const float* x_scales = a.scales;
  const int32_t* x_sums = a.sums;
  const __m512i mask = _mm512_set1_epi32(0x000f000f);
  const __m512i shift0 = _mm512_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4, 0, 0, 0, 0, 4, 4, 4, 4);
  const __m512i shift1 = _mm512_add_epi32(shift0, _mm512_set1_epi32(8));
  const int header = a.zeros ? 192 : 128;
  __m512 out[kRows][4];
  for (int row = 0; row < kRows; row++) {
    for (int i = 0; i < 4; i++) out[row][i] = _mm512_setzero_ps();
  }
  for (int tile = 0; tile < a.slices; tile += a.group_tiles) {
    const std::byte* group = p;
    p += header;
    const int group_end = tile + a.group_tiles < a.slices ? tile + a.group_tiles : a.slices;
    for (int begin = tile; begin < group_end; begin += a.block_tiles) {
      const int tiles = group_end - begin < a.block_tiles ? group_end - begin : a.block_tiles;
      const ptrdiff_t stride = 16 * tiles;
      MILLRACE_UNROLL(2)
      for (int q = 0; q < 2; q++) {
        __m512i sum[kRows][2];
        MILLRACE_UNROLL(8)
        for (int row = 0; row < kRows; row++) sum[row][0] = sum[row][1] = _mm512_setzero_si512();
        const std::byte* line_p = p + 4 * q * kLine;
        const int16_t* xp = x;
        for (int s = 0; s < tiles; s++) {
          MILLRACE_UNROLL(2)
          for (int half = 0; half < 2; half++) {
            __m512i w[2][4];
            MILLRACE_UNROLL(2)
            for (int i = 0; i < 2; i++) {
              const std::byte* two = line_p + 2 * i * kLine;
              if (half == 0) {
                _mm_prefetch(reinterpret_cast<const char*>(two) + kPrefetch, _MM_HINT_T0);
                _mm_prefetch(reinterpret_cast<const char*>(two) + kLine + kPrefetch, _MM_HINT_T0);
              }
              const __m512i u = _mm512_loadu_si512(two), v = _mm512_loadu_si512(two + kLine);
              const __m512i t0 = half == 0 ? _mm512_shuffle_i32x4(u, v, 0x00) : _mm512_shuffle_i32x4(u, v, 0xaa);
              const __m512i t1 = half == 0 ? _mm512_shuffle_i32x4(u, v, 0x55) : _mm512_shuffle_i32x4(u, v, 0xff);
              w[i][0] = _mm512_and_si512(_mm512_srlv_epi32(t0, shift0), mask);
              w[i][1] = _mm512_and_si512(_mm512_srlv_epi32(t1, shift0), mask);
              w[i][2] = _mm512_and_si512(_mm512_srlv_epi32(t0, shift1), mask);
              w[i][3] = _mm512_and_si512(_mm512_srlv_epi32(t1, shift1), mask);
            }
            MILLRACE_UNROLL(8)
            for (int row = 0; row < kRows; row++) {
              const int16_t* xr = xp + row * stride + 4 * half;
              MILLRACE_UNROLL(4)
              for (int t = 0; t < 4; t++) {
                const __m512i xs = broadcast_pair(xr + (t % 2) * 2 + (t / 2) * 8);
                sum[row][0] = dot(sum[row][0], w[0][t], xs);
                sum[row][1] = dot(sum[row][1], w[1][t], xs);
              }
            }
          }
          line_p += kTileBytes;
          xp += 16;
        }
        MILLRACE_UNROLL(2)
        for (int i = 0; i < 2; i++) {
          const int at = 2 * q + i;
          const __m512 scales = load_scales(group + 32 * at, a.bf16_scales);
          const __m512i zeros = a.zeros ? load_zeros(group + 128 + 16 * at) : _mm512_set1_epi32(8);
          MILLRACE_UNROLL(8)
          for (int row = 0; row < kRows; row++) {
            const __m512i zero = _mm512_mullo_epi32(zeros, _mm512_set1_epi32(x_sums[row]));
            const __m512 value = _mm512_cvtepi32_ps(_mm512_sub_epi32(sum[row][i], zero));
            const __m512 factor = _mm512_mul_ps(scales, _mm512_set1_ps(x_scales[row]));
            out[row][at] = _mm512_add_ps(out[row][at], _mm512_mul_ps(value, factor));
          }
        }
      }
      p += static_cast<ptrdiff_t>(tiles) * kTileBytes;
      x += kRows * stride;
      x_sums += kRows;
      x_scales += kRows;
    }
  }
  for (int row = 0; row < kRows; row++) {
    for (int i = 0; i < 4; i++) _mm512_storeu_ps(a.out + row * 64 + 16 * i, out[row][i]);
  }
}

constexpr int kMostRows = 8;

void q4(const Q4RowBlock& a) {
  switch (a.rows) {
    case 1:
      return q4_single(a);
    case 2:
      return q4_rows<2>(a);
    case 3:
      return q4_rows<3>(a);
    case 4:
      return q4_rows<4>(a);
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

// Many rows: a block's weights are turned once for all of them. Six rows by 64 outputs are summed at a time, so that
// ten loads serve 24 dot products. 16 KiB of weights, 12 of x and 12 of results stay in the L1 cache.
constexpr int kPairsPerTile = 8;
constexpr int kStepRows = 6;  // rows whose sums fit the registers

void expand_tile(const std::byte* p, __m512i (*pairs)[4]) {
  MILLRACE_UNROLL(4)
  for (int i = 0; i < 4; i++) {
    const std::byte* line_p = p + 2 * i * kLine;
    _mm_prefetch(reinterpret_cast<const char*>(line_p) + kPrefetch, _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(line_p) + kLine + kPrefetch, _MM_HINT_T0);
    __m512i w[kPairsPerTile];
    expand_lines(_mm512_loadu_si512(line_p), _mm512_loadu_si512(line_p + kLine), w);
    MILLRACE_UNROLL(8)
    for (int t = 0; t < kPairsPerTile; t++) pairs[t][i] = w[t];
  }
}

template <int kRows>
inline void multiply_pairs(const __m512i (*w)[4], int pairs, const int16_t* x, const float* x_scales,
                           const int32_t* x_sums, const __m512* scales, const __m512i* zeros, float* out) {
  __m512i sum[kRows][4];
  MILLRACE_UNROLL(6)
  for (int row = 0; row < kRows; row++) {
    MILLRACE_UNROLL(4)
    for (int i = 0; i < 4; i++) sum[row][i] = _mm512_setzero_si512();
  }
  for (int p = 0; p < pairs; p++) {
    MILLRACE_UNROLL(6)
    for (int row = 0; row < kRows; row++) {
      const __m512i xs = broadcast_pair(x + (row * pairs + p) * 2);
      MILLRACE_UNROLL(4)
      for (int i = 0; i < 4; i++) sum[row][i] = dot(sum[row][i], w[p][i], xs);
    }
  }
  MILLRACE_UNROLL(6)
  for (int row = 0; row < kRows; row++) {
    const __m512i total = _mm512_set1_epi32(x_sums[row]);
    const __m512 scale = _mm512_set1_ps(x_scales[row]);
    MILLRACE_UNROLL(4)
    for (int i = 0; i < 4; i++) {
      float* o = out + row * 64 + 16 * i;
      const __m512i zero = zeros != nullptr ? _mm512_mullo_epi32(zeros[i], total) : _mm512_slli_epi32(total, 3);
      const __m512 value = _mm512_cvtepi32_ps(_mm512_sub_epi32(sum[row][i], zero));
      _mm512_storeu_ps(o, _mm512_add_ps(_mm512_loadu_ps(o), _mm512_mul_ps(value, _mm512_mul_ps(scales[i], scale))));
    }
  }
}

void q4_many(const Q4RowBlock& a) {
  const int steps = (a.rows + kStepRows - 1) / kStepRows, step = (a.rows + steps - 1) / steps;
  const std::byte* p = a.weights;
  const int16_t* x = a.x;
  const float* x_scales = a.scales;
  const int32_t* x_sums = a.sums;
  const int header = a.zeros ? 192 : 128;
  alignas(64) __m512i weights[kLinearMaxBlock / 2][4];
  for (int i = 0; i < a.rows * 64; i += 16) _mm512_storeu_ps(a.out + i, _mm512_setzero_ps());
  for (int tile = 0; tile < a.slices; tile += a.group_tiles) {
    __m512 scales[4];
    __m512i zeros[4];
    for (int i = 0; i < 4; i++) {
      scales[i] = load_scales(p + 32 * i, a.bf16_scales);
      zeros[i] = a.zeros ? load_zeros(p + 128 + 16 * i) : _mm512_setzero_si512();
    }
    p += header;
    const int group_end = tile + a.group_tiles < a.slices ? tile + a.group_tiles : a.slices;
    for (int begin = tile; begin < group_end; begin += a.block_tiles) {
      const int tiles = group_end - begin < a.block_tiles ? group_end - begin : a.block_tiles;
      const int pairs = tiles * kPairsPerTile;
      for (int s = 0; s < tiles; s++) expand_tile(p + s * kTileBytes, weights + s * kPairsPerTile);
      for (int row = 0; row < a.rows; row += step) {
        const auto multiply = [&](auto multiply_rows) {
          multiply_rows(weights, pairs, x + static_cast<ptrdiff_t>(row) * pairs * 2, x_scales + row, x_sums + row,
                        scales, a.zeros ? zeros : nullptr, a.out + row * 64);
        };
        switch (a.rows - row < step ? a.rows - row : step) {
          case 1:
            multiply(multiply_pairs<1>);
            break;
          case 2:
            multiply(multiply_pairs<2>);
            break;
          case 3:
            multiply(multiply_pairs<3>);
            break;
          case 4:
            multiply(multiply_pairs<4>);
            break;
          case 5:
            multiply(multiply_pairs<5>);
            break;
          default:
            multiply(multiply_pairs<6>);
        }
      }
      p += static_cast<ptrdiff_t>(tiles) * kTileBytes;
      x += static_cast<ptrdiff_t>(a.rows) * pairs * 2;
      x_sums += a.rows;
      x_scales += a.rows;
    }
  }
}

}  // namespace
}  // namespace millrace
