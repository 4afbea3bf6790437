#include "backend/sample.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "backend/sample_arithmetic.h"
#include "backend/sample_sweeps.h"

namespace millrace {

namespace {

using Candidate = SampleScratch::Candidate;

// Logits are looked at by blocks first: a block whose highest logit is too low is skipped as a whole.
constexpr int kBlock = kSampleBlock;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

const SampleSweeps& choose_sweeps() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq")) {
    return sample_sweeps_avx512;
  }
  if (__builtin_cpu_supports("avx2")) return sample_sweeps_avx2;
#endif
  return sample_sweeps_plain;
}

// All give the same bits, so there is nothing to choose for a caller.
const SampleSweeps& sweeps() {
  static const SampleSweeps& chosen = choose_sweeps();
  return chosen;
}

bool before(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

bool more_typical(const Candidate& a, const Candidate& b) {
  return a.distance != b.distance ? a.distance < b.distance : before(a, b);
}

int blocks_of(std::span<const float> logits) {
  return static_cast<int>((logits.size() + kBlock - 1) / kBlock);
}

std::span<const float> block_of(std::span<const float> logits, int b) {
  const size_t begin = static_cast<size_t>(b) * kBlock;
  return logits.subspan(begin, std::min<size_t>(kBlock, logits.size() - begin));
}

// A block as the sweeps want it: the vocabulary's last is filled up with tokens that cannot be.
struct WholeBlock {
  float filled[kBlock];
  const float* data;

  explicit WholeBlock(std::span<const float> block) : data(block.data()) {
    if (block.size() == kBlock) return;
    std::fill(std::copy(block.begin(), block.end(), filled), filled + kBlock, -kInfinity);
    data = filled;
  }
};

// Highest logit of each block. False if a logit is NaN.
bool find_maxima(std::span<const float> logits, std::vector<float>& maximum) {
  const int blocks = blocks_of(logits);
  maximum.resize(blocks);
  bool valid = true;
  for (int b = 0; b < blocks; b++) {
    maximum[b] = sweeps().maximum(WholeBlock(block_of(logits, b)).data);
    valid &= maximum[b] == maximum[b];
  }
  return valid;
}

int32_t first_at(std::span<const float> logits, std::span<const float> maximum, float highest) {
  for (size_t b = 0; b < maximum.size(); b++) {
    if (maximum[b] != highest) continue;
    const std::span<const float> block = block_of(logits, static_cast<int>(b));
    for (size_t i = 0; i < block.size(); i++) {
      if (block[i] == highest) return static_cast<int32_t>(b * kBlock + i);
    }
  }
  return -1;
}

// All tokens with a logit >= floor.
void gather(std::span<const float> logits, std::span<const float> maximum, float floor, std::vector<Candidate>& out) {
  out.clear();
  for (size_t b = 0; b < maximum.size(); b++) {
    if (maximum[b] < floor) continue;
    const std::span<const float> block = block_of(logits, static_cast<int>(b));
    for (size_t i = 0; i < block.size(); i++) {
      if (block[i] >= floor) out.push_back({block[i], static_cast<int32_t>(b * kBlock + i), 0, 0});
    }
  }
}

uint64_t total_weight(std::span<const float> logits, std::span<const float> maximum, float highest, float inverse) {
  uint64_t total = 0;
  for (size_t b = 0; b < maximum.size(); b++) {
    // exp(-21) * 2^30 < 1
    if (sample_scaled(maximum[b], highest, inverse) < -21.0f) continue;
    total += sweeps().weight(WholeBlock(block_of(logits, static_cast<int>(b))).data, highest, inverse);
  }
  return total;
}

// Shortens candidates to the k first of the order.
void keep_top_k(std::vector<Candidate>& candidates, size_t k) {
  if (candidates.size() <= k) return;
  std::nth_element(candidates.begin(), candidates.begin() + k, candidates.end(), before);
  candidates.resize(k);
}

// The k first tokens of the order, in any order; the maxima of the blocks are up to date.
void gather_top_k(std::span<const float> logits, size_t k, SampleScratch& scratch) {
  const std::span<const float> maximum = scratch.block_maximum;
  float floor = -kInfinity;
  if (k <= maximum.size()) {
    // At least k tokens reach the k-th highest maximum of a block.
    scratch.selected_maximum.assign(maximum.begin(), maximum.end());
    std::nth_element(scratch.selected_maximum.begin(), scratch.selected_maximum.begin() + (k - 1),
                     scratch.selected_maximum.end(), std::greater<float>());
    floor = scratch.selected_maximum[k - 1];
  }
  gather(logits, maximum, floor, scratch.candidates);
  keep_top_k(scratch.candidates, k);
}

// Shortens candidates to the shortest prefix of the order whose weights reach `target`, halving the part in doubt: the
// prefix of a part is complete before the next is looked at.
template <typename Before>
void keep_prefix(std::vector<Candidate>& candidates, uint64_t target, Before before) {
  size_t begin = 0, end = candidates.size();
  uint64_t reached = 0;  // by [0, begin)
  while (end - begin > 32) {
    const size_t middle = begin + (end - begin) / 2;
    std::nth_element(candidates.begin() + begin, candidates.begin() + middle, candidates.begin() + end, before);
    uint64_t upper = 0;
    for (size_t i = begin; i < middle; i++) upper += candidates[i].weight;
    if (reached + upper >= target) {
      end = middle;
    } else {
      reached += upper;
      begin = middle;
    }
  }
  std::sort(candidates.begin() + begin, candidates.begin() + end, before);
  while (begin < end) {
    reached += candidates[begin++].weight;
    if (reached >= target) break;
  }
  candidates.resize(begin);
}

// floor(total * share) with the share in 32 fractional bits; total < 2^54
uint64_t share_of(uint64_t total, float share) {
  const auto fraction = static_cast<uint64_t>(static_cast<double>(std::max(share, 0.0f)) * 0x1p32);
  return (total >> 32) * fraction + (((total & 0xffffffffu) * fraction) >> 32);
}

void keep_typical(std::vector<Candidate>& candidates, float highest, float inverse, float typical_p) {
  std::erase_if(candidates, [](const Candidate& c) { return c.weight == 0; });
  uint64_t total = 0, moment = 0;
  for (const Candidate& c : candidates) {
    total += c.weight;
    moment += (uint64_t{c.weight} * sample_surprise(sample_scaled(c.logit, highest, inverse))) >> 20;
  }
  // The highest token's weight is 2^30, so total >> 6 loses nothing that matters; moment < 2^49.
  const auto mean = static_cast<uint32_t>((moment << 14) / (total >> 6));
  for (Candidate& c : candidates) {
    const uint32_t surprise = sample_surprise(sample_scaled(c.logit, highest, inverse));
    c.distance = surprise > mean ? surprise - mean : mean - surprise;
  }
  keep_prefix(candidates, share_of(total, typical_p), more_typical);
}

struct Choice {
  float score = -kInfinity;
  int32_t id = -1;

  void offer(float other, int32_t other_id) {
    if (other > score || (other == score && other_id < id)) {
      score = other;
      id = other_id;
    }
  }
};

int32_t choose(const std::vector<Candidate>& candidates, float highest, float inverse, const SampleOptions& options) {
  Choice choice;
  for (const Candidate& c : candidates) {
    const float z = sample_scaled(c.logit, highest, inverse);
    if (z + kLargestGumbel < choice.score) continue;
    const SampleWords random = sample_random(options.seed, options.counter, static_cast<uint32_t>(c.id) / 4);
    choice.offer(z + sample_gumbel(random.word[c.id % 4]), c.id);
  }
  return choice.id;
}

// All tokens, block by block. A block's random words say how high its scores can be: most need no logarithms. The
// margin covers rounding, by which gumbel may fall short of growing with its word.
int32_t choose_any(std::span<const float> logits, std::span<const float> maximum, float highest, float inverse,
                   const SampleOptions& options) {
  Choice choice;
  const int32_t first = first_at(logits, maximum, highest);
  choice.offer(sample_gumbel(sample_random(options.seed, options.counter, first / 4).word[first % 4]), first);
  for (size_t b = 0; b < maximum.size(); b++) {
    const float z = sample_scaled(maximum[b], highest, inverse);
    if (z + kLargestGumbel < choice.score) continue;
    uint32_t words[kBlock];
    const uint32_t largest = sweeps().random(options.seed, options.counter, static_cast<uint32_t>(b), words);
    if (z + sample_gumbel(largest) + 1e-3f < choice.score) continue;
    const std::span<const float> block = block_of(logits, static_cast<int>(b));
    float score[kBlock];
    sweeps().scores(WholeBlock(block).data, highest, inverse, words, score);
    if (sweeps().maximum(score) < choice.score) continue;
    for (size_t i = 0; i < block.size(); i++) choice.offer(score[i], static_cast<int32_t>(b * kBlock + i));
  }
  return choice.id;
}

// 1 / T; no temperature makes it 0 or differences of -infinity NaN.
float inverse_of(float temperature) {
  return 1.0f / std::min(temperature, 1e30f);
}

bool keeps_all(std::span<const float> logits, const SampleOptions& options) {
  const bool by_k = options.top_k > 0 && static_cast<size_t>(options.top_k) < logits.size();
  return !by_k && options.top_p >= 1.0f && options.min_p <= 0.0f && options.typical_p >= 1.0f;
}

// Fills scratch.candidates; scratch.block_maximum is up to date.
void keep(std::span<const float> logits, float highest, const SampleOptions& options, SampleScratch& scratch) {
  const std::span<const float> maximum = scratch.block_maximum;
  const float temperature = std::min(options.temperature, 1e30f);
  const float inverse = inverse_of(temperature);
  std::vector<Candidate>& candidates = scratch.candidates;
  const auto weigh = [&] {
    uint64_t total = 0;
    for (Candidate& c : candidates) {
      c.weight = sample_weight(sample_scaled(c.logit, highest, inverse));
      total += c.weight;
    }
    return total;
  };

  const bool by_p = options.top_p < 1.0f;
  if (options.top_k > 0 && static_cast<size_t>(options.top_k) < logits.size()) {
    gather_top_k(logits, options.top_k, scratch);
    const uint64_t total = weigh();
    if (by_p) keep_prefix(candidates, share_of(total, options.top_p), before);
  } else if (by_p) {
    const uint64_t target = share_of(total_weight(logits, maximum, highest, inverse), options.top_p);
    // Few tokens carry most of the weight: look at those near the highest first. Tokens without weight are never
    // needed, and -22 keeps all that have any.
    for (float depth = 2.75f;; depth *= 2.0f) {
      const bool last = depth >= 22.0f;
      gather(logits, maximum, highest - depth * temperature, candidates);
      const uint64_t reached = weigh();
      if (reached >= target || last) break;
    }
    keep_prefix(candidates, target, before);
  } else if (options.min_p > 0.0f) {
    // Weights below the threshold lie below its logarithm, with a margin for rounding.
    const float depth = std::min(22.0f, -std::log(std::min(options.min_p, 1.0f)) + 0.01f);
    gather(logits, maximum, highest - depth * temperature, candidates);
    weigh();
  } else {
    // Tokens without weight count for nothing in typical-p.
    gather(logits, maximum, options.typical_p < 1.0f ? highest - 22.0f * temperature : -kInfinity, candidates);
    weigh();
  }
  if (options.min_p > 0.0f) {
    const auto threshold = static_cast<uint32_t>(std::min(options.min_p, 1.0f) * kSampleOneFloat);
    std::erase_if(candidates, [&](const Candidate& c) { return c.weight < threshold; });
  }
  if (options.typical_p < 1.0f) keep_typical(candidates, highest, inverse, options.typical_p);
}

// What turns logits into log-probabilities.
struct Normaliser {
  bool valid = true;
  double highest = 0.0, log_sum = 0.0;

  explicit Normaliser(std::span<const float> logits) {
    const int blocks = blocks_of(logits);
    float most = -kInfinity;
    for (int b = 0; b < blocks; b++) {
      const float maximum = sweeps().maximum(WholeBlock(block_of(logits, b)).data);
      valid &= maximum == maximum;
      most = std::max(most, maximum);
    }
    valid &= most != kInfinity && most != -kInfinity;
    if (!valid) return;
    double sums[16] = {};
    for (int b = 0; b < blocks; b++) sweeps().exponentials(WholeBlock(block_of(logits, b)).data, most, sums);
    double sum = 0.0;
    for (double part : sums) sum += part;
    highest = most;
    log_sum = std::log(sum);
  }

  float operator()(float logit) const {
    return valid ? static_cast<float>(static_cast<double>(logit) - highest - log_sum)
                 : std::numeric_limits<float>::quiet_NaN();
  }
};

}  // namespace

bool is_distribution(std::span<const float> logits) {
  return Normaliser(logits).valid;
}

int32_t sample_token(std::span<const float> logits, const SampleOptions& options, SampleScratch& scratch) {
  if (logits.empty() || !find_maxima(logits, scratch.block_maximum)) return -1;
  const std::span<const float> maximum = scratch.block_maximum;
  const float highest = *std::max_element(maximum.begin(), maximum.end());
  if (highest == kInfinity || highest == -kInfinity) return -1;
  const float inverse = inverse_of(options.temperature);
  // A temperature so small that its inverse is infinite is greedy too.
  if (!(options.temperature > 0.0f) || inverse == kInfinity || options.top_k == 1) {
    return first_at(logits, maximum, highest);
  }
  if (keeps_all(logits, options)) return choose_any(logits, maximum, highest, inverse, options);
  keep(logits, highest, options, scratch);
  return choose(scratch.candidates, highest, inverse, options);
}

std::span<const SampleScratch::Candidate> kept_tokens(std::span<const float> logits, const SampleOptions& options,
                                                      SampleScratch& scratch) {
  find_maxima(logits, scratch.block_maximum);
  keep(logits, *std::max_element(scratch.block_maximum.begin(), scratch.block_maximum.end()), options, scratch);
  return scratch.candidates;
}

float log_probability(std::span<const float> logits, int32_t token) {
  return Normaliser(logits)(logits[token]);
}

void top_log_probabilities(std::span<const float> logits, std::span<int32_t> tokens, std::span<float> logprobs,
                           SampleScratch& scratch) {
  std::fill(tokens.begin(), tokens.end(), -1);
  std::fill(logprobs.begin(), logprobs.end(), std::numeric_limits<float>::quiet_NaN());
  const Normaliser normaliser(logits);
  if (!normaliser.valid || tokens.empty()) return;
  find_maxima(logits, scratch.block_maximum);
  gather_top_k(logits, tokens.size(), scratch);
  std::sort(scratch.candidates.begin(), scratch.candidates.end(), before);
  for (size_t i = 0; i < std::min(tokens.size(), scratch.candidates.size()); i++) {
    tokens[i] = scratch.candidates[i].id;
    logprobs[i] = normaliser(scratch.candidates[i].logit);
  }
}

}  // namespace millrace
