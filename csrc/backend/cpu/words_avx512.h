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
  static void halves(const std::byte* p, float* out) {
    for (int i = 0; i < 64; i += 16) {
      _mm512_storeu_ps(out + i, _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 2 * i))));
    }
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
