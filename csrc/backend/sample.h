#pragma once
// The choice of a token from a row of logits, in arithmetic that a GPU kernel can repeat bit for bit.
//
//   order        higher logit first, then lower id (total)
//   temperature  z_i = (logit_i - highest logit) * (1 / T) in float32; 0 is greedy: the first token of the order
//   weight       w_i = floor(exp(z_i) * 2^30), an integer: sums are exact and free of order
//   top-k        the k first tokens of the order
//   top-p        of those, the shortest prefix of the order whose weights reach floor(total * top_p); at least one
//   min-p        of those, the tokens with w_i >= floor(min_p * 2^30), min_p times the highest probability
//   choice       the highest z_i + gumbel_i, ties to the lowest id (the Gumbel-max trick: Maddison et al. 2014,
//                arXiv:1411.0030): a sample from the kept tokens' softmax
//   gumbel_i     -log(-log(u_i)) of a random word: Philox4x32-10 (Salmon et al. 2011) with the seed as key, counter
//                (id / 4, counter low, counter high, 0), word id % 4
//
// The float functions below use additions, multiplications and one division in the order written, no fused
// multiply-add: a device port must not contract them.
#include <bit>
#include <cstdint>
#include <span>
#include <vector>

namespace millrace {

struct SampleOptions {
  float temperature = 0.0f;  // <= 0: greedy
  int32_t top_k = 0;         // <= 0: all
  float top_p = 1.0f;        // >= 1: all
  float min_p = 0.0f;        // <= 0: all
  uint64_t seed = 0;
  uint64_t counter = 0;
};

// Working memory; grows to the largest vocabulary, then stays.
struct SampleScratch {
  struct Candidate {
    float logit;
    int32_t id;
    uint32_t weight;
  };
  std::vector<float> block_maximum;
  std::vector<float> selected_maximum;
  std::vector<Candidate> candidates;
};

// The chosen token; -1 if there is nothing to choose from: a logit is NaN or +infinity, or all are -infinity.
int32_t sample_token(std::span<const float> logits, const SampleOptions& options, SampleScratch& scratch);

// Natural logarithm of the token's probability under softmax(logits): float32 exponentials summed in float64. NaN if
// the logits are not a distribution, as above.
float log_probability(std::span<const float> logits, int32_t token);

// ---- The arithmetic.

inline constexpr uint32_t kSampleOne = 1u << 30;  // the weight of probability ratio 1
inline constexpr float kSampleOneFloat = 0x1p30f;
// Beyond any gumbel: u <= 1 - 2^-33.
inline constexpr float kLargestGumbel = 22.9f;

// e^x for x <= 0, relative error < 3e-7; 0 below -87; exactly 1 at 0.
inline float sample_exp(float x) {
  // n = round(x / ln 2) by adding 1.5 * 2^23; r = x - n ln 2 with ln 2 in two parts, the first short enough that
  // n * part is exact; then Taylor's polynomial on [-0.35, 0.35].
  const float clamped = x < -87.0f ? -87.0f : x;
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
  const float scaled = std::bit_cast<float>(std::bit_cast<uint32_t>(p) + (std::bit_cast<uint32_t>(shifted) << 23));
  return x < -87.0f ? 0.0f : scaled;
}

// log(1 + f) for f in [-0.3, 0.4143], relative error < 3e-7: 2 atanh(s), s = f / (2 + f).
inline float sample_log1p(float f) {
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
inline float sample_log(float x) {
  // x = 2^e m with m in [sqrt(1/2), sqrt(2)).
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const int32_t e = static_cast<int32_t>(bits - 0x3f3504f3u) >> 23;
  const float m = std::bit_cast<float>(bits - (static_cast<uint32_t>(e) << 23));
  const float n = static_cast<float>(e);
  return n * 0.693359375f + (n * -2.12194440e-4f + sample_log1p(m - 1.0f));
}

// -log(-log(u)) with u = (random + 1/2) / 2^32. Above 1/2 the inner logarithm is taken of 1 - v, so that the upper tail
// keeps its precision.
inline float sample_gumbel(uint32_t random) {
  const bool upper = random >= 0x80000000u;
  const uint32_t least = upper ? ~random : random;  // < 2^31
  const float v = static_cast<float>(static_cast<int32_t>(least)) * 0x1p-32f + 0x1p-33f;
  // upper: log(1 - v), v <= 1/2; below 0.7 as log(1 - v) = log(1 + (1 - 2 v)) - log 2, where 1 - 2 v is exact.
  const bool half = v > 0.3f;
  const float near_one = sample_log1p(half ? 1.0f - 2.0f * v : -v) - (half ? 0.693147181f : 0.0f);
  const float exponential = upper ? -near_one : -sample_log(v);
  return -sample_log(exponential);
}

struct SampleWords {
  uint32_t word[4];
};

// Philox4x32-10 with counter (block, counter low, counter high, 0).
inline SampleWords sample_random(uint64_t seed, uint64_t counter, uint32_t block) {
  uint32_t c0 = block, c1 = static_cast<uint32_t>(counter), c2 = static_cast<uint32_t>(counter >> 32), c3 = 0;
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; round++) {
    const uint64_t product0 = uint64_t{0xD2511F53u} * c0;
    const uint64_t product1 = uint64_t{0xCD9E8D57u} * c2;
    const uint32_t next0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ k0;
    const uint32_t next2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(product1);
    c3 = static_cast<uint32_t>(product0);
    c0 = next0;
    c2 = next2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

inline float sample_scaled(float logit, float highest, float inverse_temperature) {
  return (logit - highest) * inverse_temperature;
}

inline uint32_t sample_weight(float z) { return static_cast<uint32_t>(static_cast<int32_t>(sample_exp(z) * kSampleOneFloat)); }

}  // namespace millrace
