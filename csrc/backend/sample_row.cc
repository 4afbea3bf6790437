#include "backend/sample_row.h"

#include <limits>

#include "backend/sample_arithmetic.h"

namespace millrace {

RowAnswer answer_row(const LogitRequest& request, std::span<const float> logits,
                     std::span<const LogitAdjustment> adjustments, std::span<int32_t> top_tokens,
                     std::span<float> top_logprobs, RowScratch& scratch) {
  RowAnswer answer{request.target, std::numeric_limits<float>::quiet_NaN()};
  if (request.target < 0 && request.sample) {
    SampleOptions options;
    copy_sampling_options(request, options);
    options.seed = request.seed;
    options.counter = request.counter;
    std::span<const float> row = logits;
    if (request.adjustments > 0) {
      // A copy, since other requests may want the same row and log-probabilities are those before penalties.
      scratch.adjusted.assign(logits.begin(), logits.end());
      for (const LogitAdjustment& a : adjustments.subspan(request.adjustments_begin, request.adjustments)) {
        float& logit = scratch.adjusted[a.token];
        logit = sample_adjusted(logit, a.seen != 0, a.generated, a.bias, request.repetition_penalty,
                                request.presence_penalty, request.frequency_penalty);
      }
      row = scratch.adjusted;
    }
    answer.token = sample_token(row, options, scratch.sample);
    if (answer.token < 0 && request.adjustments > 0 && is_distribution(logits)) answer.token = kAllForbidden;
  }
  if (request.top_logprobs > 0) top_log_probabilities(logits, top_tokens, top_logprobs, scratch.sample);
  if (request.want_logprob && answer.token >= 0) answer.logprob = log_probability(logits, answer.token);
  return answer;
}

}  // namespace millrace
