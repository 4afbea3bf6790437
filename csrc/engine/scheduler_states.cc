// The scheduler's copies of states: where they are made, and what becomes of them. A copy stands behind a block of keys
// and values, so that both are found by the same text:
//
// - of a prompt: where its last whole block ends, and where it parts from a text that is known; a step's rows end
// there;
// - of an answer: wherever a block of it is full; each takes the place of the one before, so what stays is the turn's
// end.
//
// Where a pass had drafts, what is behind each of its rows is in a block until it was read: that behind the last row
// that stands becomes the sequence's own, and that where a block is full is copied then.
//
// It follows its pass in the streams, before any other pass: so a step ahead whose rows turn out useless has not moved
// what is copied, and whoever finds the copy has what computing anew would have made.
#include <algorithm>

#include "engine/scheduler.h"

namespace millrace {

namespace {

// Fewer positions are computed again sooner than a prompt is worth a pass more.
constexpr int kLeastKept = 2 * kKvBlockTokens;

}  // namespace

bool Scheduler::keeps_states_at(const Sequence& sequence, int position) const {
  if (position % kKvBlockTokens != 0 || sequence.options.kind != RequestKind::generate) return false;
  if (position >= sequence.length()) return position > sequence.prompt_length() && !config_.deterministic;
  const int last = (sequence.length() - 1) / kKvBlockTokens * kKvBlockTokens;
  return (position == last || position == sequence.branch) && position - sequence.kept_at >= kLeastKept;
}

int Scheduler::rows_until_kept(const Sequence& sequence, int rows) const {
  if (!has_state_ || !config_.prefix_reuse) return rows;
  const int last = (sequence.length() - 1) / kKvBlockTokens * kKvBlockTokens;
  for (const int at : {sequence.branch, last}) {
    const int until = at - sequence.scheduled;
    if (until > 0 && until < rows && keeps_states_at(sequence, at)) return until;
  }
  return rows;
}

void Scheduler::keep_states(StepBatch::Part& part) {
  Sequence& sequence = *part.sequence;
  if (!has_state_ || !config_.prefix_reuse || part.drafts > 0) return;
  if (!keeps_states_at(sequence, sequence.scheduled)) return;
  if (kv_.allocate_states(part.kept)) sequence.kept_at = sequence.scheduled;
}

void Scheduler::copy_states(const StepBatch& batch) {
  for (const StepBatch::Part& part : batch.parts) {
    if (!part.kept.empty()) kv_.copy_states(part.sequence->blocks, part.kept);
  }
}

void Scheduler::read_states(StepBatch::Part& part) {
  Sequence& sequence = *part.sequence;
  int end = sequence.confirmed;
  if (part.drafts > 0) {
    const int first = end - 1 - part.accepted;
    // What comes behind a stop token is no text that a turn goes on with.
    const auto drafts = std::span(sequence.tokens).last(part.drafts).first(part.accepted);
    const auto stop = std::ranges::find_first_of(drafts, sequence.options.stop_tokens);
    end = first + 1 + static_cast<int>(stop - drafts.begin());
    const int at = end / kKvBlockTokens * kKvBlockTokens;
    if (config_.prefix_reuse && at > first && !config_.deterministic && kv_.allocate_states(part.kept)) {
      kv_.copy_states(sequence.blocks, part.kept, at - first - 1);
      sequence.kept_at = at;
    }
    kv_.choose_states(sequence.blocks, part.accepted);
  }
  if (!part.kept.empty()) remember_states(part, end / kKvBlockTokens - 1);
}

void Scheduler::remember_states(StepBatch::Part& part, int index) {
  Sequence& sequence = *part.sequence;
  kv_.remember_states(sequence.blocks, index, part.kept);
  bool found = false;
  for (const int32_t id : part.kept) found = found || id != kNoBlock;
  if (!part.decode || !found) return;
  kv_.forget_states(sequence.kept, sequence.kept_generations);
  sequence.kept = std::move(part.kept);
  sequence.kept_generations.clear();
  for (int c = 0; c < kv_.classes(); c++) {
    const int32_t id = sequence.kept[c];
    sequence.kept_generations.push_back(id == kNoBlock ? 0 : kv_.of(c).generation(id));
  }
}

}  // namespace millrace
