#pragma once
// The arithmetic of sampling (see sample.h): additions, multiplications and one division in the order written, no fused
// multiply-add; a device port must not contract them. No branches, so that loops over tokens become vector code.
// `static`, because files for different instruction sets include it: their copies must never meet at the linker.
#include <cstdint>

#if defined(__CUDACC__)
#define MILLRACE_HOST_DEVICE __host__ __device__
#else
#define MILLRACE_HOST_DEVICE
#endif

namespace millrace {

inline constexpr uint32_t kSampleOne = 1u << 30;  // the weight of probability ratio 1
inline constexpr float kSampleOneFloat = 0x1p30f;
// Beyond any gumbel: u <= 1 - 2^-33.
inline constexpr float kLargestGumbel = 22.9f;

// condition ? a : b by bits: compilers turn the conditional operator into branches where two share a condition.
MILLRACE_HOST_DEVICE static inline float sample_select(bool condition, float a, float b) {
  const uint32_t mask = 0u - static_cast<uint32_t>(condition);
  return __builtin_bit_cast(float,
                            (__builtin_bit_cast(uint32_t, a) & mask) | (__builtin_bit_cast(uint32_t, b) & ~mask));
}

// e^x for x <= 0, relative error < 3e-7; 0 below -87; exactly 1 at 0.
MILLRACE_HOST_DEVICE static inline float sample_exp(float x) {
  // n = round(x / ln 2) by adding 1.5 * 2^23; r = x - n ln 2 with ln 2 in two parts, the first short enough that
  // n * part is exact; then Taylor's polynomial on [-0.35, 0.35].
  const bool vanishes = x < -87.0f;
  const float clamped = sample_select(vanishes, -87.0f, x);
  const float shifted = clamped * 1.44269504f + 12582912.0f;
  const float n = shifted - 12582912.0f;
  const float r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.98412698e-4f;
  p = p * r + 1.38888889e-3f;
  p = p * r + 8.33333333e-3f;
  p = p * r + 4.16666667e-2f;
  p = p * r + 1.66666667e-1f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const float scaled =
      __builtin_bit_cast(float, __builtin_bit_cast(uint32_t, p) + (__builtin_bit_cast(uint32_t, shifted) << 23));
  return sample_select(vanishes, 0.0f, scaled);
}

// log(1 + f) for f in [-0.3, 0.4143], relative error < 3e-7: 2 atanh(s), s = f / (2 + f).
MILLRACE_HOST_DEVICE static inline float sample_log1p(float f) {
  const float s = f / (2.0f + f);
  const float z = s * s;
  float p = 0.181818182f;
  p = p * z + 0.222222222f;
  p = p * z + 0.285714286f;
  p = p * z + 0.4f;
  p = p * z + 0.666666667f;
  p = p * z + 2.0f;
  return s * p;
}

// log(x) for normal x > 0.
MILLRACE_HOST_DEVICE static inline float sample_log(float x) {
  // x = 2^e m with m in [sqrt(1/2), sqrt(2)).
  const uint32_t bits = __builtin_bit_cast(uint32_t, x);
  const int32_t e = static_cast<int32_t>(bits - 0x3f3504f3u) >> 23;
  const float m = __builtin_bit_cast(float, bits - (static_cast<uint32_t>(e) << 23));
  const float n = static_cast<float>(e);
  return n * 0.693359375f + (n * -2.12194440e-4f + sample_log1p(m - 1.0f));
}

// -log(-log(u)) with u = (random + 1/2) / 2^32. Above 1/2 the inner logarithm is taken of 1 - v, so that the upper tail
// keeps its precision.
MILLRACE_HOST_DEVICE static inline float sample_gumbel(uint32_t random) {
  const bool upper = random >= 0x80000000u;
  const uint32_t least = random ^ (0u - static_cast<uint32_t>(upper));  // < 2^31
  const float v = static_cast<float>(static_cast<int32_t>(least)) * 0x1p-32f + 0x1p-33f;
  // upper: log(1 - v), v <= 1/2; below 0.7 as log(1 - v) = log(1 + (1 - 2 v)) - log 2, where 1 - 2 v is exact.
  // All ways are computed and one is taken, so that loops over tokens have no branches.
  const bool half = v > 0.3f;
  const float f = sample_select(half, 1.0f - 2.0f * v, -v);
  const float offset = sample_select(half, 0.693147181f, 0.0f);
  const float upper_exponential = offset - sample_log1p(f);
  const float lower_exponential = -sample_log(v);
  return -sample_log(sample_select(upper, upper_exponential, lower_exponential));
}

struct SampleWords {
  uint32_t word[4];
};

MILLRACE_HOST_DEVICE static inline SampleWords philox4x32(SampleWords counter, uint32_t key0, uint32_t key1) {
  auto [c0, c1, c2, c3] = counter.word;
  for (int round = 0; round < 10; round++) {
    const uint64_t product0 = uint64_t{0xD2511F53u} * c0;
    const uint64_t product1 = uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ key0;
    c2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ key1;
    c1 = static_cast<uint32_t>(product1);
    c3 = static_cast<uint32_t>(product0);
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// The random words of tokens 4 * block .. 4 * block + 3.
MILLRACE_HOST_DEVICE static inline SampleWords sample_random(uint64_t seed, uint64_t counter, uint32_t block) {
  return philox4x32({{block, static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), 0}},
                    static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
}

// A token's logit with its penalties and bias. Repetition: Keskar et al. 2019 (CTRL), of tokens in prompt or answer;
// frequency and presence: of tokens in the answer, as OpenAI's API has them; the bias last.
MILLRACE_HOST_DEVICE static inline float sample_adjusted(float logit, bool seen, int32_t generated, float bias,
                                                         float repetition, float presence, float frequency) {
  float x = logit;
  if (seen) x = x > 0.0f ? x / repetition : x * repetition;
  if (generated > 0) {
    const float often = frequency * static_cast<float>(generated);
    x = x - often;
    x = x - presence;
  }
  return x + bias;
}

MILLRACE_HOST_DEVICE static inline float sample_scaled(float logit, float highest, float inverse_temperature) {
  return (logit - highest) * inverse_temperature;
}

MILLRACE_HOST_DEVICE static inline uint32_t sample_weight(float z) {
  return static_cast<uint32_t>(static_cast<int32_t>(sample_exp(z) * kSampleOneFloat));
}

// -z in 2^-16, of a token with a weight (z > -21).
MILLRACE_HOST_DEVICE static inline uint32_t sample_surprise(float z) {
  return static_cast<uint32_t>(static_cast<int32_t>(-z * 65536.0f + 0.5f));
}

}  // namespace millrace
