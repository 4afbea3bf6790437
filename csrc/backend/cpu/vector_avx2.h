// Sixteen floats in two AVX2 registers. Included by *_avx2.cc files alone.
#include <immintrin.h>

#include <cstdint>

namespace millrace {
namespace {

constexpr int kTileQueries = 2;  // queries x positions of a tile of scores: as many sums as registers hold
constexpr int kTilePositions = 2;
constexpr int kTileChunks = 2;

struct Vec {
  __m256 low, high;
};

inline Vec vec_set(float value) {
  return {_mm256_set1_ps(value), _mm256_set1_ps(value)};
}
inline Vec vec_load(const float* source) {
  return {_mm256_loadu_ps(source), _mm256_loadu_ps(source + 8)};
}
inline void vec_store(float* destination, const Vec& v) {
  _mm256_storeu_ps(destination, v.low);
  _mm256_storeu_ps(destination + 8, v.high);
}
inline Vec vec_load_half(const uint16_t* source) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source))),
          _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source + 8)))};
}
// Of numbers in excess of 128.
inline Vec vec_load_q8(const uint8_t* source) {
  const __m128i all = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source));
  const __m256i zero = _mm256_set1_epi32(128);
  const auto widened = [&](__m128i eight) {
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_cvtepu8_epi32(eight), zero));
  };
  return {widened(all), widened(_mm_srli_si128(all, 8))};
}
inline void vec_store_half(uint16_t* destination, const Vec& v) {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  _mm_storeu_si128(reinterpret_cast<__m128i*>(destination), _mm256_cvtps_ph(v.low, kNearest));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(destination + 8), _mm256_cvtps_ph(v.high, kNearest));
}
inline Vec vec_add(const Vec& a, const Vec& b) {
  return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
inline Vec vec_sub(const Vec& a, const Vec& b) {
  return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
inline Vec vec_mul(const Vec& a, const Vec& b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
inline Vec vec_multiply_add(const Vec& a, const Vec& b, const Vec& c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
// The second operand where either is NaN.
inline Vec vec_max(const Vec& a, const Vec& b) {
  return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
// a < b ? 0 : c
inline Vec vec_zero_if_less(const Vec& a, const Vec& b, const Vec& c) {
  return {_mm256_andnot_ps(_mm256_cmp_ps(a.low, b.low, _CMP_LT_OQ), c.low),
          _mm256_andnot_ps(_mm256_cmp_ps(a.high, b.high, _CMP_LT_OQ), c.high)};
}
// v * 2^n, n being the low bits of `shifted` = n + 1.5 * 2^23.
inline __m256 scale_half(__m256 v, __m256 shifted) {
  return _mm256_castsi256_ps(
      _mm256_add_epi32(_mm256_castps_si256(v), _mm256_slli_epi32(_mm256_castps_si256(shifted), 23)));
}
inline Vec vec_scale(const Vec& v, const Vec& shifted) {
  return {scale_half(v.low, shifted.low), scale_half(v.high, shifted.high)};
}
// The same tree in every instruction set: halves, then halves of halves.
inline float vec_sum(const Vec& v) {
  const __m256 eight = _mm256_add_ps(v.low, v.high);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float vec_max_lane(const Vec& v) {
  const __m256 eight = _mm256_max_ps(v.low, v.high);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

}  // namespace
}  // namespace millrace
