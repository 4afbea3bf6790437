// Included once by each sample_sweeps_*.cc.
#include "backend/sample_arithmetic.h"
#include "backend/sample_sweeps.h"

namespace millrace {
namespace {

float sweep_maximum(const float* x) {
  float highest[16], nan[16];
  for (int j = 0; j < 16; j++) {
    highest[j] = x[j];
    nan[j] = x[j];
  }
  for (int i = 16; i < kSampleBlock; i += 16) {
    for (int j = 0; j < 16; j++) {
      highest[j] = x[i + j] > highest[j] ? x[i + j] : highest[j];
      nan[j] = x[i + j] == x[i + j] ? nan[j] : x[i + j];
    }
  }
  float result = highest[0];
  bool bad = false;
  for (int j = 0; j < 16; j++) {
    result = highest[j] > result ? highest[j] : result;
    bad |= nan[j] != nan[j];
  }
  return bad ? __builtin_nanf("") : result;
}

uint64_t sweep_weight(const float* x, float highest, float inverse) {
  // 64 weights of at most 2^30 need 36 bits: sums of their low 16 and high 16 bits.
  uint32_t low = 0, high = 0;
  for (int i = 0; i < kSampleBlock; i++) {
    const uint32_t weight = sample_weight(sample_scaled(x[i], highest, inverse));
    low += weight & 0xffffu;
    high += weight >> 16;
  }
  return low + (static_cast<uint64_t>(high) << 16);
}

uint32_t sweep_random(uint64_t seed, uint64_t counter, uint32_t block, uint32_t* words) {
  uint32_t word[4][kSampleBlock / 4];
  for (uint32_t i = 0; i < kSampleBlock / 4; i++) {
    const SampleWords four = sample_random(seed, counter, block * (kSampleBlock / 4) + i);
    for (int j = 0; j < 4; j++) word[j][i] = four.word[j];
  }
  uint32_t largest = 0;
  for (int i = 0; i < kSampleBlock / 4; i++) {
    for (int j = 0; j < 4; j++) {
      words[4 * i + j] = word[j][i];
      largest = word[j][i] > largest ? word[j][i] : largest;
    }
  }
  return largest;
}

void sweep_scores(const float* x, float highest, float inverse, const uint32_t* words, float* scores) {
  for (int i = 0; i < kSampleBlock; i++) scores[i] = sample_scaled(x[i], highest, inverse) + sample_gumbel(words[i]);
}

void sweep_exponentials(const float* x, float highest, double* sums) {
  float e[kSampleBlock];
  for (int i = 0; i < kSampleBlock; i++) e[i] = sample_exp(x[i] - highest);
  for (int i = 0; i < kSampleBlock; i += 16) {
    for (int j = 0; j < 16; j++) sums[j] += static_cast<double>(e[i + j]);
  }
}

}  // namespace
}  // namespace millrace
