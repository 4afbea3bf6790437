// Words of AVX2 (code.h): half a g of a tile.
#include <immintrin.h>

#include "backend/cpu/linear_kernels.h"

namespace millrace {
namespace {

struct WordsAvx2 {
  using V = __m256i;
  using Table = __m256i;
  static constexpr int kTs = 2;
  static constexpr bool kSingle = false;
  static V zero() { return _mm256_setzero_si256(); }
  static V load(const std::byte* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static V mask(V a, uint32_t bits) { return _mm256_and_si256(a, _mm256_set1_epi32(static_cast<int>(bits))); }
  static V either(V a, V b) { return _mm256_or_si256(a, b); }
  template <int kBits>
  static V right(V a) {
    return _mm256_srli_epi32(a, kBits);
  }
  template <int kBits>
  static V left(V a) {
    return _mm256_slli_epi32(a, kBits);
  }
  static V load_fields(const std::byte* p) {
    const V two = _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    const V index = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3), shift = _mm256_setr_epi32(0, 8, 0, 8, 0, 8, 0, 8);
    return _mm256_srlv_epi32(_mm256_permutevar8x32_epi32(two, index), shift);
  }
  static Table table(const uint8_t* bytes) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
  }
  static V look_up(Table table, V index) { return _mm256_shuffle_epi8(table, index); }
  static V spread(const int16_t* x, int pair, int first) {
    const V xs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
    const V index = _mm256_add_epi32(_mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1), _mm256_set1_epi32(4 * pair + first));
    return _mm256_permutevar8x32_epi32(xs, index);
  }
  static V dot(V sum, V weights, V x) {
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(weights, x));
    asm("" : "+x"(sum));  // or the compiler adds many products as a tree, which it spills
    return sum;
  }
  static void reduce(V sum, int32_t* out) {
    const __m128i one = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), one);
  }
  static void halves(const std::byte* p, float* out) {
    for (int i = 0; i < 64; i += 8) {
      _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 2 * i))));
    }
  }
  // 32 e4m3 numbers times two factors, two and two in turn. As float16 an e4m3 number's bits are 2^-8 of it.
  static void widen(const uint8_t* from, float first, float second, float* out) {
    const __m128 four = _mm_mul_ps(_mm_setr_ps(first, first, second, second), _mm_set1_ps(256.0f));
    const __m256 factor = _mm256_set_m128(four, four);
    for (int i = 0; i < 32; i += 16) {
      const V words = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i)));
      const V sign = _mm256_and_si256(_mm256_slli_epi16(words, 8), _mm256_set1_epi16(static_cast<int16_t>(0x8000)));
      const V size = _mm256_and_si256(_mm256_slli_epi16(words, 7), _mm256_set1_epi16(0x3f80));
      const V halves = _mm256_or_si256(sign, size);
      const __m256 low = _mm256_cvtph_ps(_mm256_castsi256_si128(halves));
      const __m256 high = _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1));
      _mm256_storeu_ps(out + i, _mm256_mul_ps(low, factor));
      _mm256_storeu_ps(out + i + 8, _mm256_mul_ps(high, factor));
    }
  }
  template <int kTileBytes>
  static void prefetch(const std::byte* tile, int g) {
    const char* p = reinterpret_cast<const char*>(tile) + g * (kTileBytes / 8) + 8192;
    _mm_prefetch(p, _MM_HINT_T0);
    if (kTileBytes > 512) _mm_prefetch(p + 64, _MM_HINT_T0);
  }
};

}  // namespace
}  // namespace millrace
