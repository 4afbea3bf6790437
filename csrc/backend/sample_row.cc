#include "backend/sample_row.h"

#include <algorithm>
#include <limits>

#include "backend/sample_arithmetic.h"

namespace millrace {

namespace {

constexpr float kForbidden = -std::numeric_limits<float>::infinity();

void apply_mask(const TokenMask::Words* words, std::span<float> logits) {
  size_t token = 0;
  for (size_t w = 0; words != nullptr && w < words->size() && token < logits.size(); w++) {
    const uint32_t word = (*words)[w];
    const size_t end = std::min(token + 32, logits.size());
    if (word == 0) {
      std::fill(logits.begin() + static_cast<ptrdiff_t>(token), logits.begin() + static_cast<ptrdiff_t>(end),
                kForbidden);
    } else if (word != 0xffffffff) {
      for (size_t i = token; i < end; i++) logits[i] = (word >> (i - token) & 1) != 0 ? logits[i] : kForbidden;
    }
    token = end;
  }
  std::fill(logits.begin() + static_cast<ptrdiff_t>(token), logits.end(), kForbidden);
}

}  // namespace

RowAnswer answer_row(const LogitRequest& request, std::span<const float> logits, const RowChanges& changes,
                     std::span<int32_t> top_tokens, std::span<float> top_logprobs, RowScratch& scratch) {
  RowAnswer answer{request.target, std::numeric_limits<float>::quiet_NaN()};
  if (request.target < 0 && request.sample) {
    SampleOptions options;
    copy_sampling_options(request, options);
    options.seed = request.seed;
    options.counter = request.counter;
    std::span<const float> row = logits;
    const bool changed = request.slot >= 0 || request.adjustments > 0 || request.mask >= 0;
    if (changed) {
      // A copy, since other requests may want the same row and log-probabilities are those before penalties.
      scratch.adjusted.assign(logits.begin(), logits.end());
      const auto adjust = [&](std::span<const LogitAdjustment> adjustments) {
        for (const LogitAdjustment& a : adjustments) {
          scratch.adjusted[a.token] =
              sample_adjusted(logits[a.token], a.seen != 0, a.generated, a.bias, request.repetition_penalty,
                              request.presence_penalty, request.frequency_penalty);
        }
      };
      if (request.slot >= 0) adjust(changes.table);
      adjust(changes.adjustments.subspan(request.adjustments_begin, request.adjustments));
      if (request.mask >= 0) apply_mask(changes.masks[request.mask]->wait(), scratch.adjusted);
      row = scratch.adjusted;
    }
    answer.token = sample_token(row, options, scratch.sample);
    if (answer.token < 0 && changed && is_distribution(logits)) answer.token = kAllForbidden;
  }
  if (request.top_logprobs > 0) top_log_probabilities(logits, top_tokens, top_logprobs, scratch.sample);
  if (request.want_logprob && answer.token >= 0) answer.logprob = log_probability(logits, answer.token);
  return answer;
}

}  // namespace millrace
