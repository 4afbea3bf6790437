#include "engine/scheduler.h"

#include <algorithm>

namespace millrace {

void Scheduler::admit() {
  const int most = std::min(config_.max_rows, config_.max_logit_rows);
  while (!waiting_.empty() && running() < most) {
    Sequence& sequence = *waiting_.front();
    // Blocks for the whole request are set aside at once, so that a running sequence never lacks one.
    const int tokens = sequence.prompt_length() +
                       (sequence.options.kind == RequestKind::generate ? sequence.options.max_tokens : 0);
    if (!kv_.allocate(KvPool::blocks_for(tokens), sequence.blocks)) return;  // first come, first served
    sequence.admitted = Clock::now();
    running_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
  }
}

bool Scheduler::build(StepBatch& batch) {
  admit();
  batch.parts.clear();
  batch.tokens.clear();
  batch.positions.clear();
  batch.sequences.clear();
  batch.block_tables.clear();
  batch.logits.clear();
  if (running_.empty()) return false;

  int rows_left = config_.max_rows;
  int logits_left = config_.max_logit_rows;
  const auto add_rows = [&](Sequence& sequence, int rows) {
    StepBatch::Part part{&sequence, rows, -1, 0};
    const int index = static_cast<int>(batch.parts.size());
    const int total = static_cast<int>(sequence.tokens.size());
    for (int i = 0; i < rows; i++) {
      const int position = sequence.computed + i;
      const bool last = position + 1 == total;
      const bool score = sequence.options.kind == RequestKind::score;
      if (score || last) {
        LogitRequest request;
        request.row = static_cast<int32_t>(batch.tokens.size());
        if (score) {
          request.sample = false;
          request.target = last ? -1 : sequence.tokens[position + 1];
          request.want_logprob = !last;
          request.keep_logits = sequence.options.logits;
        } else {
          request.want_logprob = sequence.options.logprobs;
          request.temperature = sequence.options.temperature;
          request.top_k = sequence.options.top_k;
          request.top_p = sequence.options.top_p;
          request.min_p = sequence.options.min_p;
          request.seed = sequence.options.seed;
          request.counter = static_cast<uint64_t>(sequence.generated());
        }
        if (part.first_logit < 0) part.first_logit = static_cast<int>(batch.logits.size());
        part.logits++;
        batch.logits.push_back(request);
      }
      batch.tokens.push_back(sequence.tokens[position]);
      batch.positions.push_back(position);
      batch.sequences.push_back(index);
    }
    rows_left -= rows;
    logits_left -= part.logits;
    batch.parts.push_back(part);
  };

  for (const auto& sequence : running_) {
    if (sequence->decoding()) add_rows(*sequence, 1);
  }
  const int decode_rows = static_cast<int>(batch.tokens.size());
  for (const auto& sequence : running_) {
    if (sequence->decoding() || rows_left == 0 || logits_left == 0) continue;
    int rows = std::min(rows_left, static_cast<int>(sequence->tokens.size()) - sequence->computed);
    if (sequence->options.kind == RequestKind::score) rows = std::min(rows, logits_left);
    add_rows(*sequence, rows);
  }

  int stride = 0;
  for (const auto& part : batch.parts) stride = std::max(stride, static_cast<int>(part.sequence->blocks.size()));
  batch.block_tables.assign(batch.parts.size() * stride, 0);
  for (size_t i = 0; i < batch.parts.size(); i++) {
    const std::vector<int32_t>& blocks = batch.parts[i].sequence->blocks;
    std::copy(blocks.begin(), blocks.end(), batch.block_tables.begin() + static_cast<ptrdiff_t>(i * stride));
  }
  batch.step.rows = static_cast<int>(batch.tokens.size());
  batch.step.decode_rows = decode_rows;
  batch.step.tokens = batch.tokens;
  batch.step.positions = batch.positions;
  batch.step.sequences = batch.sequences;
  batch.step.block_tables = batch.block_tables;
  batch.step.block_table_stride = stride;
  batch.step.logits = batch.logits;
  return true;
}

std::unique_ptr<Sequence> Scheduler::remove(uint64_t id) {
  const auto is = [id](const std::unique_ptr<Sequence>& sequence) { return sequence->id == id; };
  std::unique_ptr<Sequence> found;
  if (const auto it = std::find_if(running_.begin(), running_.end(), is); it != running_.end()) {
    found = std::move(*it);
    running_.erase(it);
  } else if (const auto at = std::find_if(waiting_.begin(), waiting_.end(), is); at != waiting_.end()) {
    found = std::move(*at);
    waiting_.erase(at);
  }
  if (found) kv_.release(found->blocks);
  return found;
}

std::vector<uint64_t> Scheduler::ids() const { return ids_of(nullptr); }

std::vector<uint64_t> Scheduler::ids_of(const EventSink* sink) const {
  std::vector<uint64_t> out;
  for (const auto& sequence : running_) {
    if (sink == nullptr || sequence->sink.get() == sink) out.push_back(sequence->id);
  }
  for (const auto& sequence : waiting_) {
    if (sink == nullptr || sequence->sink.get() == sink) out.push_back(sequence->id);
  }
  return out;
}

}  // namespace millrace
