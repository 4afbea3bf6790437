#pragma once
// What one LogitRequest asks of one row of logits, on the host: the CPU twin's sampler, and what a GPU leaves to it.
#include <span>
#include <vector>

#include "backend/backend.h"
#include "backend/sample.h"

namespace millrace {

struct RowScratch {
  SampleScratch sample;
  std::vector<float> adjusted;
};

struct RowAnswer {
  int32_t token = -1;  // as StepOutput::tokens
  float logprob = 0;   // NaN where not asked for
};

// `logits`: the row, [vocab]. `adjustments` and `masks`: the step's, of which the request names its own; a mask that is
// still being made is waited for. top_tokens and top_logprobs: request.top_logprobs of each.
RowAnswer answer_row(const LogitRequest& request, std::span<const float> logits,
                     std::span<const LogitAdjustment> adjustments, std::span<const TokenMask* const> masks,
                     std::span<int32_t> top_tokens, std::span<float> top_logprobs, RowScratch& scratch);

}  // namespace millrace
