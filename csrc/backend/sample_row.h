#pragma once
// What one LogitRequest asks of one row of logits, on the host: the CPU twin's sampler.
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

// What the step and the device's tables have for a row.
struct RowChanges {
  std::span<const LogitAdjustment> table;        // of the request's slot
  std::span<const LogitAdjustment> adjustments;  // the step's, of which the request names its own
  std::span<const TokenMask* const> masks;       // the same; one that is still being made is waited for
};

// `logits`: the row, [vocab]. top_tokens and top_logprobs: request.top_logprobs of each.
RowAnswer answer_row(const LogitRequest& request, std::span<const float> logits, const RowChanges& changes,
                     std::span<int32_t> top_tokens, std::span<float> top_logprobs, RowScratch& scratch);

}  // namespace millrace
