// Sixteen floats in an AVX-512 register. Included by *_avx512.cc files alone.
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12's header starts "undefined" registers from themselves and warns of it (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include <cstdint>

namespace millrace {
namespace {

constexpr int kTileQueries = 4;  // queries x positions of a tile of scores: as many sums as registers hold
constexpr int kTilePositions = 4;
constexpr int kTileChunks = 4;

using Vec = __m512;

inline Vec vec_set(float value) {
  return _mm512_set1_ps(value);
}
inline Vec vec_load(const float* source) {
  return _mm512_loadu_ps(source);
}
inline void vec_store(float* destination, Vec v) {
  _mm512_storeu_ps(destination, v);
}
inline Vec vec_load_half(const uint16_t* source) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source)));
}
// Of numbers in excess of 128.
inline Vec vec_load_q8(const uint8_t* source) {
  const __m512i all = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source)));
  return _mm512_cvtepi32_ps(_mm512_sub_epi32(all, _mm512_set1_epi32(128)));
}
inline void vec_store_half(uint16_t* destination, Vec v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(destination),
                      _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline Vec vec_add(Vec a, Vec b) {
  return _mm512_add_ps(a, b);
}
inline Vec vec_sub(Vec a, Vec b) {
  return _mm512_sub_ps(a, b);
}
inline Vec vec_mul(Vec a, Vec b) {
  return _mm512_mul_ps(a, b);
}
inline Vec vec_multiply_add(Vec a, Vec b, Vec c) {
  return _mm512_fmadd_ps(a, b, c);
}
// The second operand where either is NaN.
inline Vec vec_max(Vec a, Vec b) {
  return _mm512_max_ps(a, b);
}
// a < b ? 0 : c
inline Vec vec_zero_if_less(Vec a, Vec b, Vec c) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, b, _CMP_NLT_UQ), c);
}
// v * 2^n, n being the low bits of `shifted` = n + 1.5 * 2^23.
inline Vec vec_scale(Vec v, Vec shifted) {
  return _mm512_castsi512_ps(
      _mm512_add_epi32(_mm512_castps_si512(v), _mm512_slli_epi32(_mm512_castps_si512(shifted), 23)));
}
// The same tree in every instruction set: halves, then halves of halves.
inline float vec_sum(Vec v) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float vec_max_lane(Vec v) {
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

// The sums of sixteen vectors, each by vec_sum's tree: lane 4 * (i % 4) + i / 4 of the result is the sum of v[i].
inline Vec fold_halves(Vec a, Vec b) {
  return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
}
inline Vec fold_quarters(Vec a, Vec b) {
  return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}
inline Vec fold_pairs(Vec a, Vec b) {
  return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xee));
}
inline Vec fold_lanes(Vec a, Vec b) {
  return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd));
}
inline Vec vec_sum_sixteen(const Vec* v) {
  Vec quarter[4];
  for (int i = 0; i < 4; i++) {
    quarter[i] = fold_quarters(fold_halves(v[4 * i], v[4 * i + 1]), fold_halves(v[4 * i + 2], v[4 * i + 3]));
  }
  return fold_lanes(fold_pairs(quarter[0], quarter[1]), fold_pairs(quarter[2], quarter[3]));
}
#define MILLRACE_SUM_SIXTEEN 1

}  // namespace
}  // namespace millrace
