#pragma once
// The choice of experts by a router's logits: what RouteOp says, one row at a time. Scores are computed in float64 and
// rounded once, so that every instruction set gives the same bits.
#include <vector>

#include "model/program.h"

namespace millrace {

// Working memory of one thread.
struct RouteScratch {
  std::vector<float> scores, choice;
  std::vector<float> groups;
};

// routes [2 * top_k] of logits [experts]. `select_bias` [experts], or null; `drawn` [top_k]: the choice, or null.
// Numbers are within range and differ whatever the logits are; of logits that are not numbers the weights are not
// either.
void route_row(const RouteOp& op, const float* logits, const float* select_bias, const uint16_t* drawn,
               RouteScratch& scratch, float* routes);

// to [width] = sum over ranks, in their order, of weights[rank] * answers[rank, width].
void combine_row(const float* answers, const float* weights, int top_k, size_t width, float* to);

}  // namespace millrace
