#include "backend/sample.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

namespace millrace {

namespace {

using Candidate = SampleScratch::Candidate;

// Logits are looked at by blocks first: a block whose highest logit is too low is skipped as a whole.
constexpr int kBlock = 64;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

bool before(const Candidate& a, const Candidate& b) { return a.logit > b.logit || (a.logit == b.logit && a.id < b.id); }

int blocks_of(std::span<const float> logits) { return static_cast<int>((logits.size() + kBlock - 1) / kBlock); }

std::span<const float> block_of(std::span<const float> logits, int b) {
  const size_t begin = static_cast<size_t>(b) * kBlock;
  return logits.subspan(begin, std::min<size_t>(kBlock, logits.size() - begin));
}

// Highest logit of each block. False if a logit is NaN.
bool find_maxima(std::span<const float> logits, std::vector<float>& maximum) {
  const int blocks = blocks_of(logits);
  maximum.resize(blocks);
  float bad = 0.0f;  // NaN as soon as one logit is
  for (int b = 0; b < blocks; b++) {
    const std::span<const float> block = block_of(logits, b);
    float lane[16], nan[16];
    for (int i = 0; i < 16; i++) {
      lane[i] = -kInfinity;
      nan[i] = 0.0f;
    }
    if (block.size() == kBlock) {
      const float* x = block.data();
      for (int i = 0; i < kBlock; i += 16) {
        for (int j = 0; j < 16; j++) {
          lane[j] = x[i + j] > lane[j] ? x[i + j] : lane[j];
          nan[j] = x[i + j] == x[i + j] ? nan[j] : x[i + j];
        }
      }
    } else {
      for (size_t i = 0; i < block.size(); i++) {
        lane[i % 16] = block[i] > lane[i % 16] ? block[i] : lane[i % 16];
        nan[i % 16] = block[i] == block[i] ? nan[i % 16] : block[i];
      }
    }
    float highest = lane[0];
    for (int i = 0; i < 16; i++) {
      highest = lane[i] > highest ? lane[i] : highest;
      bad += nan[i];
    }
    maximum[b] = highest;
  }
  return bad == bad;
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
      if (block[i] >= floor) out.push_back({block[i], static_cast<int32_t>(b * kBlock + i), 0});
    }
  }
}

uint64_t total_weight(std::span<const float> logits, std::span<const float> maximum, float highest, float inverse) {
  uint64_t total = 0;
  for (size_t b = 0; b < maximum.size(); b++) {
    // exp(-21) * 2^30 < 1
    if (sample_scaled(maximum[b], highest, inverse) < -21.0f) continue;
    const std::span<const float> block = block_of(logits, static_cast<int>(b));
    if (block.size() == kBlock) {
      // 64 weights of at most 2^30 need 36 bits: kept as the sums of their low 16 and high 16 bits.
      const float* x = block.data();
      uint32_t low = 0, high = 0;
      for (int i = 0; i < kBlock; i++) {
        const uint32_t weight = sample_weight(sample_scaled(x[i], highest, inverse));
        low += weight & 0xffffu;
        high += weight >> 16;
      }
      total += low + (static_cast<uint64_t>(high) << 16);
    } else {
      for (float x : block) total += sample_weight(sample_scaled(x, highest, inverse));
    }
  }
  return total;
}

// Shortens candidates to the k first of the order.
void keep_top_k(std::vector<Candidate>& candidates, size_t k) {
  if (candidates.size() <= k) return;
  std::nth_element(candidates.begin(), candidates.begin() + k, candidates.end(), before);
  candidates.resize(k);
}

// Shortens candidates to the shortest prefix of the order whose weights reach `target`, halving the part in doubt: the
// prefix of a part is complete before the next is looked at.
void keep_prefix(std::vector<Candidate>& candidates, uint64_t target) {
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
  candidates.resize(std::max<size_t>(begin, 1));
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

// All tokens, block by block.
int32_t choose_any(std::span<const float> logits, std::span<const float> maximum, float highest, float inverse,
                   const SampleOptions& options) {
  Choice choice;
  for (size_t b = 0; b < maximum.size(); b++) {
    if (sample_scaled(maximum[b], highest, inverse) + kLargestGumbel < choice.score) continue;
    const std::span<const float> block = block_of(logits, static_cast<int>(b));
    uint32_t random[kBlock];
    float score[kBlock];
    for (uint32_t i = 0; i < kBlock / 4; i++) {
      const SampleWords words = sample_random(options.seed, options.counter, static_cast<uint32_t>(b * kBlock / 4) + i);
      for (int j = 0; j < 4; j++) random[4 * i + j] = words.word[j];
    }
    for (size_t i = 0; i < block.size(); i++) {
      score[i] = sample_scaled(block[i], highest, inverse) + sample_gumbel(random[i]);
    }
    for (size_t i = 0; i < block.size(); i++) choice.offer(score[i], static_cast<int32_t>(b * kBlock + i));
  }
  return choice.id;
}

}  // namespace

int32_t sample_token(std::span<const float> logits, const SampleOptions& options, SampleScratch& scratch) {
  if (logits.empty() || !find_maxima(logits, scratch.block_maximum)) return -1;
  const std::span<const float> maximum = scratch.block_maximum;
  const float highest = *std::max_element(maximum.begin(), maximum.end());
  if (highest == kInfinity || highest == -kInfinity) return -1;
  const float temperature = std::min(options.temperature, 1e30f);
  const float inverse = 1.0f / temperature;
  // A temperature so small that its inverse is infinite is greedy too.
  if (!(temperature > 0.0f) || inverse == kInfinity || options.top_k == 1) {
    return first_at(logits, maximum, highest);
  }

  std::vector<Candidate>& candidates = scratch.candidates;
  const bool by_k = options.top_k > 0 && static_cast<size_t>(options.top_k) < logits.size();
  const bool by_p = options.top_p < 1.0f;
  const bool by_min = options.min_p > 0.0f;
  if (!by_k && !by_p && !by_min) return choose_any(logits, maximum, highest, inverse, options);

  const auto weigh = [&] {
    uint64_t total = 0;
    for (Candidate& c : candidates) {
      c.weight = sample_weight(sample_scaled(c.logit, highest, inverse));
      total += c.weight;
    }
    return total;
  };
  const float top_p = std::max(options.top_p, 0.0f);
  const auto target_of = [&](uint64_t total) {
    // floor(total * top_p) with top_p in 32 fractional bits; total < 2^54
    const uint64_t fraction = static_cast<uint64_t>(static_cast<double>(top_p) * 0x1p32);
    return (total >> 32) * fraction + (((total & 0xffffffffu) * fraction) >> 32);
  };

  if (by_k) {
    const size_t k = options.top_k;
    float floor = -kInfinity;
    if (k <= maximum.size()) {
      // At least k tokens reach the k-th highest maximum of a block.
      scratch.selected_maximum.assign(maximum.begin(), maximum.end());
      std::nth_element(scratch.selected_maximum.begin(), scratch.selected_maximum.begin() + (k - 1),
                       scratch.selected_maximum.end(), std::greater<float>());
      floor = scratch.selected_maximum[k - 1];
    }
    gather(logits, maximum, floor, candidates);
    keep_top_k(candidates, k);
    const uint64_t total = weigh();
    if (by_p) keep_prefix(candidates, target_of(total));
  } else if (by_p) {
    const uint64_t target = target_of(total_weight(logits, maximum, highest, inverse));
    // Few tokens carry most of the weight: look at those near the highest first. Tokens without weight are never
    // needed, and -22 keeps all that have any.
    for (float depth = 2.75f;; depth *= 2.0f) {
      const bool all = depth >= 22.0f;
      gather(logits, maximum, all ? highest - 22.0f * temperature : highest - depth * temperature,
             candidates);
      const uint64_t reached = weigh();
      if (reached >= target || all) break;
    }
    keep_prefix(candidates, target);
  } else {
    // min-p alone: weights below the threshold lie below its logarithm, with a margin for rounding.
    const float depth = std::min(22.0f, -std::log(std::min(options.min_p, 1.0f)) + 0.01f);
    gather(logits, maximum, highest - depth * temperature, candidates);
    weigh();
  }
  if (by_min) {
    const uint32_t threshold = static_cast<uint32_t>(std::min(options.min_p, 1.0f) * kSampleOneFloat);
    std::erase_if(candidates, [&](const Candidate& c) { return c.weight < threshold; });
  }
  return choose(candidates, highest, inverse, options);
}

float log_probability(std::span<const float> logits, int32_t token) {
  float highest = -kInfinity;
  bool nan = false;
  for (float x : logits) {
    highest = x > highest ? x : highest;
    nan |= x != x;
  }
  if (nan || highest == kInfinity || highest == -kInfinity) return std::numeric_limits<float>::quiet_NaN();
  double lanes[8] = {};
  size_t i = 0;
  for (; i + 8 <= logits.size(); i += 8) {
    for (int j = 0; j < 8; j++) lanes[j] += static_cast<double>(sample_exp(logits[i + j] - highest));
  }
  for (; i < logits.size(); i++) lanes[i % 8] += static_cast<double>(sample_exp(logits[i] - highest));
  double sum = 0.0;
  for (double lane : lanes) sum += lane;
  return static_cast<float>(static_cast<double>(logits[token]) - highest - std::log(sum));
}

}  // namespace millrace
