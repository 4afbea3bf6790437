#pragma once
// The loops of sampling that look at every token, for one block of the vocabulary at a time. sample_sweeps_*.cc compile
// the same source for each instruction set; without fused multiply-adds all give the same bits.
#include <cstdint>

namespace millrace {

inline constexpr int kSampleBlock = 64;  // tokens

struct SampleSweeps {
  // Highest of 64 logits; NaN if one is NaN.
  float (*maximum)(const float* logits);
  // Sum of the 64 weights.
  uint64_t (*weight)(const float* logits, float highest, float inverse_temperature);
  // The random words of tokens 64 * block + i; returns the largest.
  uint32_t (*random)(uint64_t seed, uint64_t counter, uint32_t block, uint32_t* words);
  // scores[i] = z_i + gumbel_i
  void (*scores)(const float* logits, float highest, float inverse_temperature, const uint32_t* words, float* scores);
  // Adds exp(logit - highest) to sixteen float64 sums, token i to sum i % 16.
  void (*exponentials)(const float* logits, float highest, double* sums);
};

extern const SampleSweeps sample_sweeps_plain;
#if defined(__x86_64__)
extern const SampleSweeps sample_sweeps_avx2;
extern const SampleSweeps sample_sweeps_avx512;
#endif

}  // namespace millrace
