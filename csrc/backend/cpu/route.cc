#include "backend/cpu/route.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace millrace {

namespace {

constexpr float kTaken = -std::numeric_limits<float>::infinity();

void score_row(const RouteOp& op, const float* logits, float* scores) {
  const auto experts = static_cast<size_t>(op.experts);
  if (op.score == Score::sigmoid) {
    for (size_t e = 0; e < experts; e++) {
      scores[e] = static_cast<float>(1.0 / (1.0 + std::exp(-static_cast<double>(logits[e]))));
    }
    return;
  }
  const double most = *std::max_element(logits, logits + experts);
  double sum = 0;
  for (size_t e = 0; e < experts; e++) sum += std::exp(logits[e] - most);
  for (size_t e = 0; e < experts; e++) scores[e] = static_cast<float>(std::exp(logits[e] - most) / sum);
}

// The best that is not taken, the first of equals; some that is not taken even where none compares.
int best_of(const float* values, int count) {
  int best = -1;
  for (int i = 0; i < count; i++) {
    if (values[i] == kTaken) continue;
    if (best < 0 || values[i] > values[best]) best = i;
  }
  return best;
}

// Experts outside the best groups are not for choice.
void keep_groups(const RouteOp& op, float* choice, std::vector<float>& groups) {
  const int size = op.experts / op.groups;
  groups.resize(static_cast<size_t>(op.groups));
  for (int g = 0; g < op.groups; g++) {
    const float* own = choice + static_cast<ptrdiff_t>(g) * size;
    float first = own[0], second = kTaken;
    for (int e = 1; e < size; e++) {
      if (own[e] > first) {
        second = first;
        first = own[e];
      } else if (own[e] > second) {
        second = own[e];
      }
    }
    groups[static_cast<size_t>(g)] = op.group_best == 1 ? first : first + second;
  }
  std::vector<bool> kept(static_cast<size_t>(op.groups), false);
  for (int i = 0; i < op.top_groups; i++) {
    const int best = best_of(groups.data(), op.groups);
    if (best < 0) break;
    kept[static_cast<size_t>(best)] = true;
    groups[static_cast<size_t>(best)] = kTaken;
  }
  for (int e = 0; e < op.experts; e++) {
    if (!kept[static_cast<size_t>(e / size)]) choice[e] = kTaken;
  }
}

}  // namespace

void combine_row(const float* answers, const float* weights, int top_k, size_t width, float* to) {
  for (size_t f = 0; f < width; f++) to[f] = weights[0] * answers[f];
  for (int rank = 1; rank < top_k; rank++) {
    const float* from = answers + static_cast<size_t>(rank) * width;
    for (size_t f = 0; f < width; f++) to[f] += weights[rank] * from[f];
  }
}

void route_row(const RouteOp& op, const float* logits, const float* select_bias, const uint16_t* drawn,
               RouteScratch& scratch, float* routes) {
  const auto experts = static_cast<size_t>(op.experts);
  scratch.scores.resize(experts);
  score_row(op, logits, scratch.scores.data());
  scratch.choice = scratch.scores;
  for (size_t e = 0; select_bias != nullptr && e < experts; e++) scratch.choice[e] += select_bias[e];
  if (op.groups > 1) keep_groups(op, scratch.choice.data(), scratch.groups);
  float* weights = routes + op.top_k;
  float sum = 0;
  for (int i = 0; i < op.top_k; i++) {
    int best = drawn != nullptr ? drawn[i] : best_of(scratch.choice.data(), op.experts);
    // Where logits were infinite there may be none left: any number does, for the weights are no numbers.
    if (best < 0) best = i;
    scratch.choice[static_cast<size_t>(best)] = kTaken;
    routes[i] = static_cast<float>(best);
    weights[i] = scratch.scores[static_cast<size_t>(best)];
    sum += weights[i];
  }
  for (int i = 0; i < op.top_k; i++) {
    if (op.renormalise) weights[i] /= sum;
    weights[i] *= op.scale;
  }
}

}  // namespace millrace
