#pragma once
// The choice of a token from a row of logits, in arithmetic that a GPU kernel can repeat bit for bit.
//
//   order        higher logit first, then lower id (total)
//   temperature  z_i = (logit_i - highest logit) * (1 / T) in float32; 0 is greedy: the first token of the order
//   weight       w_i = floor(exp(z_i) * 2^30), an integer: sums are exact and free of order
//   top-k        the k first tokens of the order
//   top-p        of those, the shortest prefix of the order whose weights reach floor(total * top_p); at least one
//   min-p        of those, the tokens with w_i >= floor(min_p * 2^30), min_p times the highest probability
//   typical-p    of those with a weight, the shortest prefix that reaches floor(total * typical_p), at least one, in
//   the
//                order of |s_i - m|, then of the tokens: s_i = round(-z_i * 2^16) and m their mean by weight, so that
//                s_i - m is how far the token's surprise is from the entropy (Meister et al. 2022, arXiv:2202.00666);
//                m = (sum of floor(w_i * s_i / 2^20) * 2^14) / floor(sum of w_i / 2^6), all in integers
//   choice       the highest z_i + gumbel_i, ties to the lowest id (the Gumbel-max trick: Maddison et al. 2014,
//                arXiv:1411.0030): a sample from the kept tokens' softmax
//   gumbel_i     -log(-log(u_i)) of a random word: Philox4x32-10 (Salmon et al. 2011) with the seed as key, counter
//                (id / 4, counter low, counter high, 0), word id % 4
//
// The float functions are in sample_arithmetic.h.
#include <cstdint>
#include <span>
#include <vector>

#include "backend/sampling_options.h"

namespace millrace {

// The penalties among them change logits before they come here: sample_adjusted().
struct SampleOptions {
  MILLRACE_SAMPLING_OPTIONS(MILLRACE_SAMPLING_FIELD)
  uint64_t seed = 0;
  uint64_t counter = 0;
};

// Working memory; grows to the largest vocabulary, then stays.
struct SampleScratch {
  struct Candidate {
    float logit;
    int32_t id;
    uint32_t weight;
    uint32_t distance;  // from the entropy, in 2^-16: of typical-p alone
  };
  std::vector<float> block_maximum;
  std::vector<float> selected_maximum;
  std::vector<Candidate> candidates;
};

// A logit is finite, and none is NaN or +infinity.
bool is_distribution(std::span<const float> logits);

// The chosen token; -1 if there is nothing to choose from: the logits are no distribution.
int32_t sample_token(std::span<const float> logits, const SampleOptions& options, SampleScratch& scratch);

// The tokens that top-k, top-p, min-p and typical-p leave to choose from, in no order; temperature must be positive and
// the logits a distribution. Belongs to the scratch.
std::span<const SampleScratch::Candidate> kept_tokens(std::span<const float> logits, const SampleOptions& options,
                                                      SampleScratch& scratch);

// Natural logarithm of the token's probability under softmax(logits): float32 exponentials summed in float64. NaN if
// the logits are not a distribution, as above.
float log_probability(std::span<const float> logits, int32_t token);

// The tokens.size() first tokens of the order and their log-probabilities, of the same bits as log_probability() gives.
// -1 and NaN where there are no more tokens or the logits are no distribution.
void top_log_probabilities(std::span<const float> logits, std::span<int32_t> tokens, std::span<float> logprobs,
                           SampleScratch& scratch);

}  // namespace millrace
