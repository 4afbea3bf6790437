// Words of AVX-512 (code.h): a whole g of a tile.
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12's own AVX-512 headers trip these (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include "backend/cpu/linear_kernels.h"

namespace millrace {
namespace {

struct WordsAvx512 {
  using V = __m512i;
  using Table = __m512i;
  static constexpr int kTs = 4;
  static constexpr bool kSingle = true;
  static V zero() { return _mm512_setzero_si512(); }
  static V load(const std::byte* p) { return _mm512_loadu_si512(p); }
  static V mask(V a, uint32_t bits) { return _mm512_and_si512(a, _mm512_set1_epi32(static_cast<int>(bits))); }
  static V either(V a, V b) { return _mm512_or_si512(a, b); }
  template <int kBits>
  static V right(V a) {
    return _mm512_srli_epi32(a, kBits);
  }
  template <int kBits>
  static V left(V a) {
    return _mm512_slli_epi32(a, kBits);
  }
  static V load_fields(const std::byte* p) {
    const V two = _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    const V index = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    const V shift = _mm512_setr_epi32(0, 8, 0, 8, 0, 8, 0, 8, 0, 8, 0, 8, 0, 8, 0, 8);
    return _mm512_srlv_epi32(_mm512_permutexvar_epi32(index, two), shift);
  }
  static Table table(const uint8_t* bytes) {
    return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
  }
  static V look_up(Table table, V index) { return _mm512_shuffle_epi8(table, index); }
  static V spread(const int16_t* x, int pair, int) {
    const V xs = _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)));
    const V first = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    return _mm512_permutexvar_epi32(_mm512_add_epi32(first, _mm512_set1_epi32(4 * pair)), xs);
  }
  static V dot(V sum, V weights, V x) {
#if defined(__AVX512VNNI__) && !defined(__clang__)
    // GCC 12 surrounds the intrinsic with register moves and spills the sums: half the speed.
    asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(weights), "v"(x));
    return sum;
#elif defined(__AVX512VNNI__)
    return _mm512_dpwssd_epi32(sum, weights, x);
#else
    sum = _mm512_add_epi32(sum, _mm512_madd_epi16(weights, x));
    asm("" : "+v"(sum));  // or the compiler adds many products as a tree, which it spills
    return sum;
#endif
  }
  static void reduce(V sum, int32_t* out) {
    const __m256i two = _mm256_add_epi32(_mm512_castsi512_si256(sum), _mm512_extracti64x4_epi64(sum, 1));
    const __m128i one = _mm_add_epi32(_mm256_castsi256_si128(two), _mm256_extracti128_si256(two, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), one);
  }
  // The sums over t of four, one after the other.
  static V reduce(V a, V b, V c, V d) {
    const V ab = _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x44), _mm512_shuffle_i32x4(a, b, 0xee));
    const V cd = _mm512_add_epi32(_mm512_shuffle_i32x4(c, d, 0x44), _mm512_shuffle_i32x4(c, d, 0xee));
    return _mm512_add_epi32(_mm512_shuffle_i32x4(ab, cd, 0x88), _mm512_shuffle_i32x4(ab, cd, 0xdd));
  }
  // out += float(sums - zero * x_sum) * (scale * x_scale)
  static void add_scaled(V sums, const int32_t* zero, int32_t x_sum, const float* scale, float x_scale, float* out) {
    const V zeros = _mm512_mullo_epi32(_mm512_load_si512(zero), _mm512_set1_epi32(x_sum));
    const __m512 factor = _mm512_mul_ps(_mm512_load_ps(scale), _mm512_set1_ps(x_scale));
    const __m512 exact = _mm512_cvtepi32_ps(_mm512_sub_epi32(sums, zeros));
    _mm512_storeu_ps(out, _mm512_add_ps(_mm512_loadu_ps(out), _mm512_mul_ps(exact, factor)));
  }
  static void halves(const std::byte* p, float* out) {
    for (int i = 0; i < 64; i += 16) {
      _mm512_storeu_ps(out + i, _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 2 * i))));
    }
  }
  // 32 e4m3 numbers times two factors, two and two in turn. As float16 an e4m3 number's bits are 2^-8 of it.
  static void widen(const uint8_t* from, float first, float second, float* out) {
    const __m128 four = _mm_mul_ps(_mm_setr_ps(first, first, second, second), _mm_set1_ps(256.0f));
    const __m512 factor = _mm512_broadcast_f32x4(four);
    const V words = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
    const V sign = _mm512_and_si512(_mm512_slli_epi16(words, 8), _mm512_set1_epi16(static_cast<int16_t>(0x8000)));
    const V size = _mm512_and_si512(_mm512_slli_epi16(words, 7), _mm512_set1_epi16(0x3f80));
    const V halves = _mm512_or_si512(sign, size);
    const __m512 low = _mm512_cvtph_ps(_mm512_castsi512_si256(halves));
    const __m512 high = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1));
    _mm512_storeu_ps(out, _mm512_mul_ps(low, factor));
    _mm512_storeu_ps(out + 16, _mm512_mul_ps(high, factor));
  }
  // An eighth of a tile, some way ahead.
  template <int kTileBytes>
  static void prefetch(const std::byte* tile, int g) {
    const char* p = reinterpret_cast<const char*>(tile) + g * (kTileBytes / 8) + 8192;
    _mm_prefetch(p, _MM_HINT_T0);
    if (kTileBytes > 512) _mm_prefetch(p + 64, _MM_HINT_T0);
  }
};

}  // namespace
}  // namespace millrace
