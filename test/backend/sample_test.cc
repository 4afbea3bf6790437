// Sampling: the arithmetic against float64, the kept sets against their definitions, draws against the distribution.
#include "backend/sample.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>
#include <vector>

#include "backend/sample_arithmetic.h"
#include "backend/sample_sweeps.h"
#include "check.h"

using namespace millrace;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<float> random_logits(int vocab, double spread, uint64_t stream) {
  std::mt19937_64 random = check::random(stream);
  std::normal_distribution<double> normal(0, spread);
  std::vector<float> logits(vocab);
  for (float& x : logits) x = static_cast<float>(normal(random));
  return logits;
}

// Token ids, best first.
std::vector<int> ranked(const std::vector<float>& logits) {
  std::vector<int> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::stable_sort(ids.begin(), ids.end(), [&](int a, int b) { return logits[a] > logits[b]; });
  return ids;
}

std::vector<int> kept(const std::vector<float>& logits, const SampleOptions& options) {
  SampleScratch scratch;
  std::vector<int> ids;
  for (const auto& c : kept_tokens(logits, options, scratch)) ids.push_back(c.id);
  std::sort(ids.begin(), ids.end());
  return ids;
}

std::vector<int> first_of(const std::vector<int>& order, size_t count) {
  std::vector<int> ids(order.begin(), order.begin() + std::min(count, order.size()));
  std::sort(ids.begin(), ids.end());
  return ids;
}

// Frequencies of `draws` draws against softmax(logits / T) over the kept tokens: Pearson's statistic, whose mean is the
// degrees of freedom and whose variance twice that; six standard deviations.
void check_frequencies(const std::vector<float>& logits, const SampleOptions& base, int draws) {
  SampleScratch scratch;
  const std::vector<int> ids = kept(logits, base);
  std::vector<double> probability(logits.size(), 0.0);
  double sum = 0;
  for (int id : ids) sum += probability[id] = std::exp((logits[id] - logits[ranked(logits)[0]]) / base.temperature);
  std::vector<int> count(logits.size(), 0);
  SampleOptions options = base;
  for (int i = 0; i < draws; i++) {
    options.counter = i;
    const int token = sample_token(logits, options, scratch);
    REQUIRE(token >= 0 && token < static_cast<int>(logits.size()));
    count[token]++;
  }
  double statistic = 0, rare_expected = 0, rare_count = 0;
  int cells = 0;
  const auto add = [&](double expected, double found) {
    statistic += (found - expected) * (found - expected) / expected;
    cells++;
  };
  for (size_t id = 0; id < logits.size(); id++) {
    const double expected = probability[id] / sum * draws;
    if (expected == 0) {
      CHECK_EQ(count[id], 0);
    } else if (expected < 10) {
      rare_expected += expected;
      rare_count += count[id];
    } else {
      add(expected, count[id]);
    }
  }
  if (rare_expected > 5) add(rare_expected, rare_count);
  const double freedom = cells - 1;
  CHECK(statistic < freedom + 6 * std::sqrt(2 * freedom) + 6);
}

}  // namespace

TEST(random_words_are_philox4x32_10) {
  // Known answers of the Random123 library (Salmon et al. 2011).
  const auto equals = [](SampleWords found, SampleWords expected) {
    for (int i = 0; i < 4; i++) CHECK_EQ(found.word[i], expected.word[i]);
  };
  equals(philox4x32({{0, 0, 0, 0}}, 0, 0), {{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}});
  equals(philox4x32({{~0u, ~0u, ~0u, ~0u}}, ~0u, ~0u), {{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}});
  equals(philox4x32({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, 0xa4093822, 0x299f31d0),
         {{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}});
}

TEST(exp_log_and_gumbel_are_accurate) {
  CHECK_EQ(sample_exp(0.0f), 1.0f);
  CHECK_EQ(sample_exp(-kInfinity), 0.0f);
  CHECK_EQ(sample_exp(-88.0f), 0.0f);
  for (float x = 0; x > -87; x -= 0.00137f) {
    const double expected = std::exp(static_cast<double>(x));
    CHECK(std::abs(sample_exp(x) - expected) <= 3e-7 * expected);
  }
  for (double x = 1e-10; x < 30; x *= 1.00037) {
    const float f = static_cast<float>(x);
    const double expected = std::log(static_cast<double>(f));
    CHECK(std::abs(sample_log(f) - expected) <= 4e-7 * std::abs(expected) + 1e-9);
  }
  std::mt19937_64 random = check::random();
  std::vector<uint32_t> words = {0, 1, 2, 1000, 0x7fffffff, 0x80000000, 0x80000001, 0xb3333333, 0xfffffffe, 0xffffffff};
  for (int i = 0; i < 100000; i++) words.push_back(static_cast<uint32_t>(random()));
  for (uint32_t word : words) {
    const double u = (word + 0.5) / 4294967296.0;
    const double expected = -std::log(-(u < 0.5 ? std::log(u) : std::log1p(-(4294967295.5 - word) / 4294967296.0)));
    CHECK_NEAR(sample_gumbel(word), expected, 1e-6 + 3e-7 * std::abs(expected));
    CHECK(sample_gumbel(word) < kLargestGumbel);
  }
}

TEST(every_instruction_set_gives_the_same_bits) {
  std::vector<std::pair<const SampleSweeps*, bool>> others;
#if defined(__x86_64__)
  others.push_back({&sample_sweeps_avx2, __builtin_cpu_supports("avx2")});
  others.push_back({&sample_sweeps_avx512, __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                                               __builtin_cpu_supports("avx512vl") &&
                                               __builtin_cpu_supports("avx512dq")});
#endif
  for (int trial = 0; trial < 200; trial++) {
    std::vector<float> logits = random_logits(kSampleBlock, trial % 3 == 0 ? 20 : 2, trial);
    logits[trial % kSampleBlock] = trial % 2 ? -kInfinity : -100.0f;
    const float highest = *std::max_element(logits.begin(), logits.end());
    const auto run = [&](const SampleSweeps& sweeps) {
      std::vector<double> out(16, 0.0);
      std::vector<float> scores(kSampleBlock);
      std::vector<uint32_t> words(kSampleBlock);
      sweeps.exponentials(logits.data(), highest, out.data());
      const uint32_t largest = sweeps.random(77, 3, 5 + trial, words.data());
      CHECK_EQ(largest, *std::max_element(words.begin(), words.end()));
      CHECK_EQ(words[9], sample_random(77, 3, (5 + trial) * kSampleBlock / 4 + 2).word[1]);
      sweeps.scores(logits.data(), highest, 1.25f, words.data(), scores.data());
      out.insert(out.end(), scores.begin(), scores.end());
      out.push_back(sweeps.maximum(logits.data()));
      out.push_back(static_cast<double>(sweeps.weight(logits.data(), highest, 0.7f)));
      return out;
    };
    const std::vector<double> expected = run(sample_sweeps_plain);
    CHECK_EQ(expected[80], highest);
    for (const auto& [sweeps, runs] : others) {
      if (runs) CHECK(run(*sweeps) == expected);
    }
    logits[(trial * 7) % kSampleBlock] = kNan;
    CHECK(std::isnan(sample_sweeps_plain.maximum(logits.data())));
    for (const auto& [sweeps, runs] : others) {
      if (runs) CHECK(std::isnan(sweeps->maximum(logits.data())));
    }
  }
}

TEST(greedy_takes_the_highest_logit_and_the_lowest_id) {
  SampleScratch scratch;
  for (int vocab : {1, 5, 64, 65, 1000}) {
    std::vector<float> logits = random_logits(vocab, 1, vocab);
    CHECK_EQ(sample_token(logits, {}, scratch), ranked(logits)[0]);
    logits[vocab / 2] = logits[vocab - 1] = 50.0f;
    CHECK_EQ(sample_token(logits, {}, scratch), vocab / 2);
    CHECK_EQ(sample_token(logits, {.temperature = 0.8f, .top_k = 1}, scratch), vocab / 2);
  }
  const std::vector<float> zeros = {-1.0f, -0.0f, 0.0f};
  CHECK_EQ(sample_token(zeros, {}, scratch), 1);
}

TEST(a_vanishing_temperature_is_greedy) {
  SampleScratch scratch;
  const std::vector<float> logits = random_logits(500, 1, 3);
  for (float temperature : {1e-5f, 1e-30f, 1e-39f}) {
    for (uint64_t seed = 0; seed < 20; seed++) {
      CHECK_EQ(sample_token(logits, {.temperature = temperature, .seed = seed}, scratch), ranked(logits)[0]);
    }
  }
}

TEST(logits_that_are_no_distribution_give_no_token) {
  SampleScratch scratch;
  for (int at : {0, 63, 64, 99}) {
    for (float bad : {kNan, kInfinity}) {
      std::vector<float> logits = random_logits(100, 1, 1);
      logits[at] = bad;
      CHECK_EQ(sample_token(logits, {}, scratch), -1);
      CHECK_EQ(sample_token(logits, {.temperature = 1.0f, .top_p = 0.9f}, scratch), -1);
      CHECK(std::isnan(log_probability(logits, 5)));
    }
  }
  CHECK_EQ(sample_token(std::vector<float>(100, -kInfinity), {.temperature = 1.0f}, scratch), -1);
  CHECK_EQ(sample_token({}, {}, scratch), -1);
}

TEST(tokens_of_minus_infinity_are_never_drawn) {
  SampleScratch scratch;
  std::vector<float> logits(200, -kInfinity);
  logits[7] = 1.0f;
  logits[130] = 0.5f;
  for (const SampleOptions& base :
       {SampleOptions{.temperature = 1.0f}, SampleOptions{.temperature = kInfinity},
        SampleOptions{.temperature = 2.0f, .top_k = 50}, SampleOptions{.temperature = 1.0f, .top_p = 0.99f},
        SampleOptions{.temperature = 1.0f, .min_p = 1e-9f}}) {
    std::set<int> seen;
    SampleOptions options = base;
    for (options.counter = 0; options.counter < 100; options.counter++)
      seen.insert(sample_token(logits, options, scratch));
    CHECK(seen == std::set<int>({7, 130}));
  }
}

TEST(top_k_keeps_the_k_first_of_the_order) {
  for (int vocab : {10, 100, 5000}) {
    std::vector<float> logits = random_logits(vocab, 2, vocab);
    for (float& x : logits) x = std::round(x * 4) / 4;  // many ties
    const std::vector<int> order = ranked(logits);
    for (int k : {1, 2, 5, 40, 79, 1000, 4999}) {
      if (k >= vocab) continue;
      CHECK(kept(logits, {.temperature = 1.0f, .top_k = k}) == first_of(order, k));
    }
    CHECK(kept(logits, {.temperature = 1.0f, .top_k = vocab}) == first_of(order, vocab));
    CHECK(kept(logits, {.temperature = 1.0f, .top_k = 0}) == first_of(order, vocab));
  }
}

TEST(top_p_keeps_the_shortest_prefix_that_reaches_it) {
  for (const auto& [vocab, spread] : std::vector<std::pair<int, double>>{{20, 1}, {3000, 2}, {3000, 0.1}, {20000, 6}}) {
    std::vector<float> logits = random_logits(vocab, spread, vocab);
    for (int i = 0; i < vocab; i += 3) logits[i] = std::round(logits[i] * 2) / 2;
    const std::vector<int> order = ranked(logits);
    for (float temperature : {0.5f, 1.0f, 3.0f}) {
      for (int top_k : {0, 15}) {
        const size_t candidates = top_k > 0 ? top_k : vocab;
        double total = 0;
        std::vector<double> prefix;
        for (size_t i = 0; i < candidates; i++) {
          total += std::exp((logits[order[i]] - static_cast<double>(logits[order[0]])) / temperature);
          prefix.push_back(total);
        }
        for (float top_p : {0.0f, 0.01f, 0.3f, 0.9f, 0.999f}) {
          const auto ids = kept(logits, {.temperature = temperature, .top_k = top_k, .top_p = top_p});
          REQUIRE(!ids.empty() && ids.size() <= candidates);
          CHECK(ids == first_of(order, ids.size()));
          const double tolerance = 1e-5;
          CHECK(prefix[ids.size() - 1] >= (top_p - tolerance) * total);
          if (ids.size() > 1) CHECK(prefix[ids.size() - 2] < (top_p + tolerance) * total);
        }
      }
    }
  }
}

TEST(a_prefix_that_reaches_top_p_exactly_is_enough) {
  const std::vector<float> logits(8, 1.5f);
  for (int i = 1; i <= 8; i++) {
    const auto ids = kept(logits, {.temperature = 0.7f, .top_p = i / 8.0f});
    CHECK_EQ(ids.size(), static_cast<size_t>(i));
    CHECK_EQ(ids.back(), i - 1);
  }
}

TEST(min_p_keeps_a_share_of_the_highest_probability) {
  const std::vector<float> logits = random_logits(2000, 2, 4);
  const std::vector<int> order = ranked(logits);
  for (float temperature : {0.7f, 1.0f, 2.0f}) {
    for (float min_p : {1e-6f, 0.01f, 0.1f, 0.5f, 1.0f}) {
      const auto ids = kept(logits, {.temperature = temperature, .min_p = min_p});
      REQUIRE(!ids.empty());
      CHECK(ids == first_of(order, ids.size()));
      const auto ratio = [&](size_t i) {
        return std::exp((logits[order[i]] - static_cast<double>(logits[order[0]])) / temperature);
      };
      CHECK(ratio(ids.size() - 1) >= min_p * (1 - 1e-5) - 2e-9);
      if (ids.size() < order.size()) CHECK(ratio(ids.size()) < min_p * (1 + 1e-5) + 2e-9);
    }
  }
  // After the others, of what they left.
  CHECK(kept(logits, {.temperature = 1.0f, .top_k = 3, .min_p = 1e-4f}).size() <= 3);
}

// Against float64: surprise and entropy of the distribution that the other filters left.
TEST(typical_p_keeps_the_tokens_of_expected_surprise) {
  for (const auto& [vocab, spread] : std::vector<std::pair<int, double>>{{12, 1}, {3000, 2}, {3000, 0.2}, {20000, 5}}) {
    const std::vector<float> logits = random_logits(vocab, spread, vocab);
    const std::vector<int> order = ranked(logits);
    for (float temperature : {0.6f, 1.0f, 2.0f}) {
      for (int top_k : {0, 9}) {
        const size_t candidates = top_k > 0 ? top_k : vocab;
        std::vector<double> p(candidates);
        double total = 0, entropy = 0;
        for (size_t i = 0; i < candidates; i++) {
          total += p[i] = std::exp((logits[order[i]] - static_cast<double>(logits[order[0]])) / temperature);
        }
        for (double& x : p) {
          x /= total;
          entropy -= x * std::log(x);
        }
        for (float typical_p : {0.0f, 0.2f, 0.7f, 0.95f}) {
          const auto ids = kept(logits, {.temperature = temperature, .top_k = top_k, .typical_p = typical_p});
          REQUIRE(!ids.empty() && ids.size() <= candidates);
          const std::set<int> set(ids.begin(), ids.end());
          double mass = 0, farthest = 0, last = 0;
          for (size_t i = 0; i < candidates; i++) {
            if (!set.contains(order[i])) continue;
            mass += p[i];
            const double distance = std::abs(-std::log(p[i]) - entropy);
            if (distance >= farthest) {
              farthest = distance;
              last = p[i];
            }
          }
          for (size_t i = 0; i < candidates; i++) {
            // Tokens below 2^-30 of the highest have no weight.
            if (set.contains(order[i]) || p[i] < p[0] * 2e-9) continue;
            CHECK(std::abs(-std::log(p[i]) - entropy) >= farthest - 2e-4);
          }
          CHECK(mass >= typical_p - 1e-4);
          if (ids.size() > 1) CHECK(mass - last < typical_p + 1e-4);
        }
      }
    }
  }
}

TEST(typical_p_can_leave_out_the_most_likely_token) {
  // One token of a third among 4096 that share the rest: the entropy is about six, its surprise one.
  std::vector<float> logits(4097, 0.0f);
  logits[100] = std::log(2048.0f);
  const auto ids = kept(logits, {.temperature = 1.0f, .typical_p = 0.4999f});
  CHECK(std::find(ids.begin(), ids.end(), 100) == ids.end());
  CHECK_EQ(ids.size(), 3072u);  // each has 1/6144 of the whole
  CHECK_EQ(ids.back(), 3072);   // equally typical ones in the order of the tokens
}

TEST(penalties_and_biases_are_those_of_the_papers) {
  const auto adjusted = [](float logit, bool seen, int generated, float bias) {
    return sample_adjusted(logit, seen, generated, bias, 2.0f, 0.25f, 0.5f);
  };
  CHECK_EQ(adjusted(3.0f, false, 0, 0.0f), 3.0f);
  CHECK_EQ(adjusted(3.0f, true, 0, 0.0f), 1.5f);
  CHECK_EQ(adjusted(-3.0f, true, 0, 0.0f), -6.0f);
  CHECK_EQ(adjusted(3.0f, true, 1, 0.0f), 0.75f);
  CHECK_EQ(adjusted(3.0f, true, 4, 10.0f), 9.25f);
  CHECK_EQ(adjusted(3.0f, false, 0, -kInfinity), -kInfinity);
  CHECK_EQ(sample_adjusted(7.3f, true, 9, 0.0f, 1.0f, 0.0f, 0.0f), 7.3f);
}

TEST(top_log_probabilities_are_the_first_of_the_order) {
  SampleScratch scratch;
  for (int vocab : {3, 64, 1000, 20000}) {
    std::vector<float> logits = random_logits(vocab, 3, vocab);
    for (float& x : logits) x = std::round(x * 8) / 8;  // many ties
    const std::vector<int> order = ranked(logits);
    for (size_t count : {1, 5, 20}) {
      std::vector<int32_t> tokens(count);
      std::vector<float> logprobs(count);
      top_log_probabilities(logits, tokens, logprobs, scratch);
      for (size_t i = 0; i < count; i++) {
        if (i >= order.size()) {
          CHECK_EQ(tokens[i], -1);
          CHECK(std::isnan(logprobs[i]));
        } else {
          CHECK_EQ(tokens[i], order[i]);
          CHECK_EQ(logprobs[i], log_probability(logits, order[i]));
        }
      }
    }
  }
  std::vector<int32_t> tokens(2, 7);
  std::vector<float> logprobs(2, 0.0f);
  top_log_probabilities(std::vector<float>{1.0f, kNan, 2.0f}, tokens, logprobs, scratch);
  CHECK(tokens == std::vector<int32_t>(2, -1));
  CHECK(std::isnan(logprobs[0]) && std::isnan(logprobs[1]));
}

TEST(draws_follow_the_distribution) {
  const std::vector<float> logits = random_logits(50, 1.5, 11);
  check_frequencies(logits, {.temperature = 1.0f, .seed = 1}, 200000);
  check_frequencies(logits, {.temperature = 0.6f, .top_k = 10, .seed = 2}, 200000);
  check_frequencies(logits, {.temperature = 1.3f, .top_p = 0.8f, .seed = 3}, 200000);
  check_frequencies(logits, {.temperature = 1.0f, .min_p = 0.05f, .seed = 4}, 200000);
  check_frequencies(logits, {.temperature = 1.2f, .typical_p = 0.6f, .seed = 6}, 200000);
  check_frequencies(std::vector<float>(100, 2.5f), {.temperature = 1.0f, .seed = 0xffffffffffffffffull}, 200000);
  check_frequencies(random_logits(300, 1, 12), {.temperature = 1.0f, .seed = 5}, 100000);
}

TEST(seed_and_counter_fix_the_token_and_move_it) {
  SampleScratch scratch;
  const std::vector<float> logits = random_logits(1000, 1, 6);
  std::set<int> by_seed, by_counter, by_high_seed, by_high_counter;
  for (uint64_t i = 0; i < 50; i++) {
    const SampleOptions options{.temperature = 1.0f, .seed = i, .counter = 3};
    SampleScratch fresh;
    CHECK_EQ(sample_token(logits, options, scratch), sample_token(logits, options, fresh));
    by_seed.insert(sample_token(logits, options, scratch));
    by_counter.insert(sample_token(logits, {.temperature = 1.0f, .counter = i}, scratch));
    by_high_seed.insert(sample_token(logits, {.temperature = 1.0f, .seed = i << 32}, scratch));
    by_high_counter.insert(sample_token(logits, {.temperature = 1.0f, .counter = i << 32}, scratch));
  }
  CHECK(by_seed.size() > 25 && by_counter.size() > 25 && by_high_seed.size() > 25 && by_high_counter.size() > 25);
}

// The same token wins whether blocks are swept or candidates looked up one by one.
TEST(filters_that_keep_all_do_not_change_the_choice) {
  SampleScratch scratch;
  for (uint64_t seed = 0; seed < 200; seed++) {
    const std::vector<float> logits = random_logits(777, 2, seed);
    const int token = sample_token(logits, {.temperature = 1.1f, .seed = seed}, scratch);
    CHECK_EQ(sample_token(logits, {.temperature = 1.1f, .min_p = 1e-30f, .seed = seed}, scratch), token);
    CHECK_EQ(sample_token(logits, {.temperature = 1.1f, .top_k = 776, .seed = seed}, scratch), token);
  }
}

TEST(log_probabilities_match_float64) {
  for (int vocab : {3, 64, 1001, 50000}) {
    const std::vector<float> logits = random_logits(vocab, 4, vocab);
    double sum = 0;
    for (float x : logits) sum += std::exp(static_cast<double>(x));
    for (int id : {0, vocab / 2, vocab - 1}) {
      CHECK_NEAR(log_probability(logits, id), logits[id] - std::log(sum), 2e-6 * (1 + std::abs(logits[id])) + 2e-6);
    }
  }
}
