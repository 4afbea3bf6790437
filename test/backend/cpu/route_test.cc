// The choice of experts, against float64 written out once more, and what nothing may break: numbers in range.
#include "backend/cpu/route.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "check.h"

using namespace millrace;

namespace {

RouteOp route(int experts, int top_k, Score score = Score::softmax, bool renormalise = false) {
  RouteOp op;
  op.experts = experts, op.top_k = top_k, op.score = score, op.renormalise = renormalise;
  return op;
}

std::vector<float> run(const RouteOp& op, const std::vector<float>& logits, const std::vector<float>& bias = {}) {
  RouteScratch scratch;
  std::vector<float> routes(2 * static_cast<size_t>(op.top_k), -1.0f);
  route_row(op, logits.data(), bias.empty() ? nullptr : bias.data(), nullptr, scratch, routes.data());
  return routes;
}

std::vector<float> random_logits(int count, uint64_t stream) {
  auto random = check::random(stream);
  std::normal_distribution<float> normal;
  std::vector<float> out(static_cast<size_t>(count));
  for (float& value : out) value = 3 * normal(random);
  return out;
}

}  // namespace

TEST(the_highest_scores_are_chosen_in_order_with_their_weights) {
  for (const Score score : {Score::softmax, Score::sigmoid}) {
    for (uint64_t stream = 0; stream < 50; stream++) {
      const std::vector<float> logits = random_logits(24, stream), bias = random_logits(24, 1000 + stream);
      RouteOp op = route(24, 5, score, stream % 2 == 1);
      op.scale = stream % 3 == 0 ? 2.5f : 1.0f;
      const bool biased = stream % 4 < 2;
      std::vector<double> scores(24), choice(24);
      double sum = 0;
      for (int e = 0; e < 24; e++) sum += std::exp(static_cast<double>(logits[e]));
      for (int e = 0; e < 24; e++) {
        scores[e] = score == Score::softmax ? std::exp(static_cast<double>(logits[e])) / sum
                                            : 1 / (1 + std::exp(-static_cast<double>(logits[e])));
        choice[e] = scores[e] + (biased ? bias[e] : 0.0f);
      }
      std::vector<int> order(24);
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return choice[a] > choice[b]; });
      double chosen = 0;
      for (int i = 0; i < 5; i++) chosen += scores[order[i]];
      const std::vector<float> found = run(op, logits, biased ? bias : std::vector<float>{});
      for (int i = 0; i < 5; i++) {
        CHECK_EQ(static_cast<int>(found[i]), order[i]);
        const double weight = scores[order[i]] / (op.renormalise ? chosen : 1) * op.scale;
        CHECK(std::fabs(found[5 + i] - weight) < 1e-6 * std::max(1.0, weight));
      }
    }
  }
}

TEST(of_equal_scores_the_lowest_number_comes_first) {
  const std::vector<float> found = run(route(6, 3), {1, 2, 2, 0, 2, 2});
  CHECK((std::vector<float>(found.begin(), found.begin() + 3) == std::vector<float>{1, 2, 4}));
}

TEST(groups_are_chosen_by_their_two_best) {
  // One expert of group 0 is the best of all, but groups 1 and 2 have the better pairs.
  RouteOp op = route(9, 2, Score::sigmoid);
  op.groups = 3, op.top_groups = 2;
  const std::vector<float> found = run(op, {5, -9, -9, 3, 2, -9, 1, 3.5f, -9});
  CHECK_EQ(static_cast<int>(found[0]), 7);
  CHECK_EQ(static_cast<int>(found[1]), 3);
}

TEST(whatever_the_logits_are_numbers_are_in_range_and_differ) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  for (const std::vector<float>& logits :
       {std::vector<float>(8, nan), std::vector<float>(8, -infinity), std::vector<float>(8, infinity),
        std::vector<float>{nan, 1, -infinity, infinity, nan, 0, 2, 3}}) {
    for (const Score score : {Score::softmax, Score::sigmoid}) {
      RouteOp op = route(8, 4, score, true);
      for (const int groups : {1, 4}) {
        op.groups = groups, op.top_groups = groups == 1 ? 1 : 2;
        const std::vector<float> found = run(op, logits);
        std::vector<int> chosen;
        for (int i = 0; i < 4; i++) {
          CHECK(found[i] >= 0 && found[i] < 8);
          chosen.push_back(static_cast<int>(found[i]));
        }
        std::sort(chosen.begin(), chosen.end());
        CHECK(std::unique(chosen.begin(), chosen.end()) == chosen.end());
      }
    }
  }
}

TEST(groups_by_their_best_or_by_their_two_best) {
  RouteOp op = route(6, 2);
  op.groups = 3, op.top_groups = 1;
  // The last group has the best expert, the first the best two.
  const std::vector<float> logits = {4.5f, 4.5f, 1, 2, 5, -9};
  CHECK_EQ(static_cast<int>(run(op, logits)[0]), 0);
  op.group_best = 1;
  const std::vector<float> found = run(op, logits);
  CHECK_EQ(static_cast<int>(found[0]), 4);
  CHECK_EQ(static_cast<int>(found[1]), 5);
}
