#include "engine/scheduler.h"

#include <algorithm>
#include <limits>

#include "backend/logit_table.h"
#include "core/error.h"

namespace millrace {

namespace {

bool goes_before(const Sequence& a, const Sequence& b) {
  return a.options.priority != b.options.priority ? a.options.priority > b.options.priority : a.id < b.id;
}

void insert(std::deque<std::unique_ptr<Sequence>>& into, std::unique_ptr<Sequence> sequence) {
  auto at = into.end();
  while (at != into.begin() && goes_before(*sequence, **std::prev(at))) --at;
  into.insert(at, std::move(sequence));
}

bool has_penalties(const RequestOptions& options) {
  return options.repetition_penalty != 1.0f || options.presence_penalty != 0.0f || options.frequency_penalty != 0.0f;
}

bool has_adjustments(const Sequence& sequence) {
  return has_penalties(sequence.options) || !sequence.adjustments.empty();
}

// The biases, and the prompt as far as it matters to penalties. Sorted once: a bias for every token of the vocabulary
// must not hold up the engine.
void begin_adjustments(Sequence& sequence) {
  const RequestOptions& options = sequence.options;
  std::vector<LogitAdjustment>& all = sequence.adjustments;
  if (options.repetition_penalty != 1.0f) {
    for (const int32_t token : options.tokens) all.push_back({token, 1, 0, 0.0f});
  }
  for (const auto& [token, bias] : options.logit_bias) all.push_back({token, 0, 0, bias});
  std::stable_sort(all.begin(), all.end(),
                   [](const LogitAdjustment& a, const LogitAdjustment& b) { return a.token < b.token; });
  size_t kept = 0;
  for (const LogitAdjustment& next : all) {
    if (kept > 0 && all[kept - 1].token == next.token) {
      all[kept - 1].seen |= next.seen;
      all[kept - 1].bias += next.bias;  // a token that was biased twice has both
    } else {
      all[kept++] = next;
    }
  }
  all.resize(kept);
}

void add_logits(StepBatch& batch, StepBatch::Part& part, int32_t row, LogitRequest request) {
  request.row = row;
  if (part.first_logit < 0) part.first_logit = static_cast<int>(batch.logits.size());
  part.logits++;
  batch.logits.push_back(request);
}

}  // namespace

void append_token(Sequence& sequence, int32_t token, bool counted) {
  if (sequence.expected >= 0) {
    sequence.followed = token == sequence.expected;
    sequence.acceptance.take(1, sequence.followed ? 1 : 0);
    sequence.expected = -1;
  }
  sequence.tokens.push_back(token);
  if (!has_penalties(sequence.options)) return;
  count_generated(adjustment_of(sequence.adjustments, 0, {token}));
  if (!counted && sequence.table.slot >= 0) sequence.table.stale.push_back(token);
}

Scheduler::Scheduler(SchedulerConfig config, KvPool& kv)
    : config_(std::move(config)), kv_(kv), slots_(config_.max_logit_rows) {
  for (int c = 0; c < kv_.classes(); c++) has_state_ = has_state_ || kv_.of(c).state();
}

void Scheduler::add(std::unique_ptr<Sequence> sequence) {
  sequence->blocks.resize(kv_.classes());
  sequence->dropped.resize(kv_.classes());
  meet_draft_model(*sequence);
  insert(waiting_, std::move(sequence));
}

bool Scheduler::may_run_more() const {
  return running() < std::min(config_.max_rows, config_.max_logit_rows);
}

int Scheduler::wanted_blocks(const Sequence& sequence, int kv_class) const {
  if (kv_.of(kv_class).state()) return 1 + sequence.drafted;
  const int64_t tokens = sequence.length();
  const int window = kv_.of(kv_class).window();
  if (window == 0) return KvPool::blocks_for(static_cast<int>(tokens));
  // What is kept begins within the window, or up to two blocks before it: see drop_behind_windows.
  const int64_t kept = int64_t{window} + config_.max_rows + 2 * kKvBlockTokens;
  const int64_t dropped = int64_t{sequence.dropped[kv_class]} * kKvBlockTokens;
  return KvPool::blocks_for(static_cast<int>(std::min(tokens, dropped + kept)));
}

void Scheduler::drop_behind_windows(Sequence& sequence) {
  for (int c = 0; c < kv_.classes(); c++) {
    const int window = kv_.of(c).window();
    if (window == 0) continue;
    // Rows that have not been read are at position `confirmed` or behind it.
    int behind = std::max(0, sequence.confirmed + 1 - window) / kKvBlockTokens;
    // The next block to be remembered refers to the one before it.
    if (config_.prefix_reuse) behind = std::min(behind, sequence.remembered - 1);
    if (behind <= sequence.dropped[c]) continue;
    kv_.of(c).drop(sequence.blocks[c], sequence.dropped[c], behind);
    sequence.dropped[c] = behind;
  }
}

bool Scheduler::has_room(const Sequence& sequence, bool saved, const KvPool::Prefix* prefix) const {
  for (int c = 0; c < kv_.classes(); c++) {
    const std::vector<int32_t>& blocks = sequence.blocks[c];
    int has = saved ? sequence.dropped[c] : static_cast<int>(blocks.size() - std::ranges::count(blocks, kInRam));
    if (prefix != nullptr && prefix->states[c] >= 0) has++;  // a copy, or where there is no room for one that
    // A block for each that runs already, or the one that comes would soon push out another; of states they have all.
    const int kept = kv_.of(c).state() ? 0 : running();
    if (kv_.of(c).available() < wanted_blocks(sequence, c) - has + kept) return false;
  }
  return true;
}

bool Scheduler::grow(Sequence& sequence) {
  for (int c = 0; c < kv_.classes(); c++) {
    std::vector<int32_t>& blocks = sequence.blocks[c];
    const int missing = wanted_blocks(sequence, c) - static_cast<int>(blocks.size());
    if (missing <= 0) continue;
    const bool behind_drafts = kv_.of(c).state() && !blocks.empty();  // which push out nothing that is remembered
    if (!(behind_drafts ? kv_.of(c).allocate_free(missing, blocks) : kv_.of(c).allocate(missing, blocks))) return false;
  }
  return true;
}

void Scheduler::resume() {
  while (!preempted_.empty() && may_run_more()) {
    Sequence& sequence = *preempted_.front();
    if (!waiting_.empty() && goes_before(*waiting_.front(), sequence)) return;  // admit() is next
    if (!has_room(sequence, true)) return;
    sequence.arriving = !sequence.saved.empty();
    kv_.restore(sequence.saved, sequence.blocks);
    grow(sequence);
    insert(running_, std::move(preempted_.front()));
    preempted_.pop_front();
  }
}

void Scheduler::admit() {
  while (!waiting_.empty() && may_run_more()) {
    Sequence& sequence = *waiting_.front();
    if (!preempted_.empty() && !goes_before(sequence, *preempted_.front())) return;
    const bool generate = sequence.options.kind == RequestKind::generate;
    KvPool::Prefix prefix = kv_.no_prefix();
    if (config_.prefix_reuse && generate) {
      prefix = kv_.reuse(sequence.tokens, config_.deterministic, sequence.blocks);
      for (int c = 0; c < kv_.classes(); c++) {
        const auto& blocks = sequence.blocks[c];
        sequence.dropped[c] = static_cast<int>(std::count(blocks.begin(), blocks.end(), kNoBlock));
      }
    }
    sequence.scheduled = sequence.confirmed = prefix.blocks * kKvBlockTokens;
    sequence.remembered = prefix.blocks;
    sequence.kept_at = sequence.scheduled;
    sequence.branch = prefix.known * kKvBlockTokens;
    drop_behind_windows(sequence);
    if (!begin_with(sequence, prefix)) return;
    counters_.prompt_tokens += sequence.prompt_length();
    counters_.reused_tokens += sequence.scheduled;
    counters_.returned_tokens += static_cast<uint64_t>(prefix.returning) * kKvBlockTokens;
    begin_adjustments(sequence);
    sequence.admitted = Clock::now();
    config_.queued->fetch_sub(1, std::memory_order_relaxed);
    insert(running_, std::move(waiting_.front()));
    waiting_.pop_front();
  }
}

bool Scheduler::begin_with(Sequence& sequence, KvPool::Prefix& prefix) {
  const auto give_up = [&] {
    kv_.give_up(prefix);
    begin_anew(sequence);
  };
  try {
    if (has_room(sequence, false, &prefix) && kv_.begin_with(prefix, sequence.blocks) && grow(sequence)) {
      sequence.arriving = !kv_.settled(sequence.blocks);
      return true;
    }
  } catch (...) {
    give_up();
    throw;
  }
  give_up();
  return false;
}

void Scheduler::begin_anew(Sequence& sequence) {
  kv_.release(sequence.blocks);
  sequence.scheduled = sequence.confirmed = 0;
  sequence.remembered = 0;
  sequence.branch = sequence.kept_at = 0;
  std::fill(sequence.dropped.begin(), sequence.dropped.end(), 0);
}

void Scheduler::preempt_last() {
  Sequence& sequence = *running_.back();
  counters_.preemptions++;
  insert(preempted_, std::move(running_.back()));
  running_.pop_back();
  leave_table(sequence);
  sequence.arriving = false;
  forget_drafts(sequence);
  bool saved = false;
  try {
    saved = kv_.save(sequence.blocks, sequence.saved);
  } catch (const std::exception&) {
    // A device that copies nothing: the pass will say so.
  }
  if (!saved) recompute(sequence);
}

void Scheduler::recompute(Sequence& sequence) {
  counters_.recomputations++;
  kv_.discard(sequence.saved);
  begin_anew(sequence);
  sequence.decoded_from = INT32_MAX;
  sequence.score_logprobs.clear();
  sequence.score_logits.clear();
  sequence.pooled = {};
}

void Scheduler::give_up_masks() {
  for (const auto& sequence : running_) {
    if (sequence->constrained) sequence->constrained->give_up_later_mask();
  }
}

void Scheduler::abandon(bool saved_whole) {
  for (StepBatch* batch : under_way_) {
    for (StepBatch::Part& part : batch->parts) kv_.give_up_states(part.kept);
  }
  under_way_.clear();
  for (const auto& sequence : running_) {
    keep_drafts(*sequence, 0);
    kv_.choose_states(sequence->blocks, 0);
    // States have gone on, nobody knows how far.
    if (has_state_ && sequence->scheduled != sequence->confirmed) recompute(*sequence);
    sequence->scheduled = sequence->confirmed;
    sequence->pending = 0;
    sequence->table.sent = false;  // it may have counted what nobody has read
  }
  for (const auto& sequence : preempted_) {
    if (!saved_whole && !sequence->saved.empty()) recompute(*sequence);
  }
}

// Those that passes under way and the next one add counted too.
bool Scheduler::fits_table(const Sequence& sequence) const {
  return static_cast<int>(sequence.adjustments.size()) + sequence.pending + 1 <= config_.table_entries;
}

void Scheduler::update_table(StepBatch& batch, Sequence& sequence) {
  if (!has_adjustments(sequence)) return;
  if (!fits_table(sequence)) return leave_table(sequence);
  TableSlot& table = sequence.table;
  if (table.slot < 0) {  // there is one for each that may run
    table.slot = static_cast<int>(std::find(slots_.begin(), slots_.end(), false) - slots_.begin());
    slots_[table.slot] = true;
  }
  if (table.sent && table.stale.empty()) return;
  const size_t begin = batch.adjustments.size();
  if (!table.sent) {
    batch.adjustments.insert(batch.adjustments.end(), sequence.adjustments.begin(), sequence.adjustments.end());
  } else {
    for (const int32_t token : table.stale) {
      adjustment_of(batch.adjustments, begin, found_adjustment(sequence.adjustments, token));
    }
  }
  batch.table_updates.push_back({table.slot, table.sent ? 0 : 1, static_cast<int32_t>(begin),
                                 static_cast<int32_t>(batch.adjustments.size() - begin)});
  table.sent = true;
  table.stale.clear();
}

void Scheduler::leave_table(Sequence& sequence) {
  if (sequence.table.slot >= 0) slots_[sequence.table.slot] = false;
  sequence.table = {};
}

LogitRequest Scheduler::choice(StepBatch& batch, Sequence& sequence, int ahead) {
  const RequestOptions& options = sequence.options;
  LogitRequest request;
  request.want_logprob = options.logprobs;
  copy_sampling_options(options, request);
  if (ahead == 0) update_table(batch, sequence);
  request.slot = sequence.table.slot;
  request.counts = request.slot >= 0 && has_penalties(options) && sequence.drafted == 0;
  const size_t begin = batch.adjustments.size();
  if (request.slot < 0) {
    batch.adjustments.insert(batch.adjustments.end(), sequence.adjustments.begin(), sequence.adjustments.end());
  }
  const auto own = [&](int32_t token) -> LogitAdjustment& {
    return adjustment_of(batch.adjustments, begin, found_adjustment(sequence.adjustments, token));
  };
  const std::span<const int32_t> drafts = std::span(sequence.tokens).last(sequence.drafted);
  if (has_penalties(options)) {
    for (const int32_t token : drafts.first(ahead)) count_generated(own(token));
  }
  const int index = sequence.generated() + sequence.pending + ahead;  // of the token within the answer
  if (index < options.min_tokens) {
    for (const int32_t token : options.stop_tokens) own(token).bias = -std::numeric_limits<float>::infinity();
  }
  request.adjustments_begin = static_cast<int32_t>(begin);
  request.adjustments = static_cast<int32_t>(batch.adjustments.size() - begin);
  if (sequence.constrained) {
    if (sequence.pending > 0) {
      batch.kept_masks.push_back(sequence.constrained->later_mask());
      batch.masks.push_back(batch.kept_masks.back().get());
    } else if (ahead == 0) {
      for (const auto& mask : sequence.constrained->next_masks(drafts)) {
        batch.masks.push_back(mask.get());
        batch.kept_masks.push_back(mask);
      }
    }
    request.mask = static_cast<int32_t>(batch.masks.size()) - 1 - sequence.drafted + ahead;
  }
  request.top_logprobs = options.top_logprobs;
  request.seed = options.seed;
  request.counter = static_cast<uint64_t>(index);
  return request;
}

void Scheduler::add_rows(StepBatch& batch, Sequence& sequence, int rows) {
  StepBatch::Part part;
  part.sequence = &sequence;
  part.rows = rows;
  part.drafts = sequence.drafted;
  part.first_hidden = static_cast<int>(batch.hidden_rows.size());
  part.decode = sequence.decoding();
  const int index = static_cast<int>(batch.parts.size());
  const int total = sequence.length(), known = static_cast<int>(sequence.tokens.size());
  for (int i = 0; i < rows; i++) {
    const int position = sequence.scheduled + i;
    const auto row = static_cast<int32_t>(batch.tokens.size());
    const bool last = position + 1 == total;
    if (sequence.options.kind == RequestKind::embed) {
      if (last || sequence.options.pooling == Pooling::mean) {
        batch.hidden_rows.push_back(row);
        part.hidden++;
      }
    } else if (sequence.options.kind == RequestKind::score) {
      LogitRequest request;
      request.sample = false;
      request.target = last ? -1 : sequence.tokens[position + 1];
      request.want_logprob = !last;
      request.keep_logits = sequence.options.logits;
      add_logits(batch, part, row, request);
    } else if (position + 1 >= total - sequence.drafted) {
      add_logits(batch, part, row, choice(batch, sequence, position + 1 - (total - sequence.drafted)));
      part.counted = batch.logits.back().counts;
    }
    // The one that the pass under way chooses.
    batch.tokens.push_back(position < known ? sequence.tokens[position] : 0);
    batch.token_from.push_back(position < known ? -1 : sequence.pending_choice);
    batch.positions.push_back(position);
    batch.sequences.push_back(index);
  }
  batch.parts.push_back(part);
}

// Every running sequence gets the blocks for its next rows; the last ones make room for those before them.
bool Scheduler::make_room(bool preempt) {
  for (size_t i = 0; i < running_.size(); i++) {
    while (!running_[i]->complete() && !grow(*running_[i])) {
      if (!preempt) return false;
      preempt_last();
      if (i >= running_.size()) return true;  // it was this one
    }
  }
  return true;
}

bool Scheduler::build(StepBatch& batch) {
  step_++;
  make_room(true);  // those that run come first
  resume();
  admit();
  return fill(batch);
}

bool Scheduler::may_build_ahead() const {
  const StepBatch& before = *under_way_.front();
  for (const StepBatch::Part& part : before.parts) {
    if (part.sequence == nullptr) continue;
    if (part.drafts > 0) return false;  // where it goes on depends on how many stand
    // A window moves when its rows were read: a chunk behind another finds too few blocks.
    if (part.decode) continue;
    for (int c = 0; c < kv_.classes(); c++) {
      if (kv_.of(c).window() != 0) return false;
    }
  }
  return std::none_of(running_.begin(), running_.end(), [&](const auto& sequence) {
    return sequence->pending > 0 &&
           (wants_drafts(*sequence, std::max(1, before.step.decode_rows)) ||
            (has_penalties(sequence->options) && !(sequence->table.slot >= 0 && fits_table(*sequence))));
  });
}

bool Scheduler::build_ahead(StepBatch& batch) {
  if (under_way_.size() != 1 || !may_build_ahead() || !make_room(false)) return false;
  step_++;
  resume();
  admit();
  return fill(batch);
}

bool Scheduler::fill(StepBatch& batch) {
  batch.parts.clear();
  batch.tokens.clear();
  batch.token_from.clear();
  batch.positions.clear();
  batch.sequences.clear();
  batch.block_tables.clear();
  batch.logits.clear();
  batch.adjustments.clear();
  batch.table_updates.clear();
  batch.masks.clear();
  batch.kept_masks.clear();
  batch.hidden_rows.clear();
  if (running_.empty()) return false;

  take_arrived();
  const auto decodes = [](const Sequence& sequence) {
    return sequence.decoding() && !sequence.complete() && !sequence.arriving;
  };
  int decoding = 0;
  for (const auto& sequence : running_) decoding += decodes(*sequence) ? 1 : 0;
  if (under_way_.empty()) draft(decoding);
  for (const auto& sequence : running_) {
    if (decodes(*sequence)) add_rows(batch, *sequence, 1 + sequence->drafted);
  }
  const int decode_rows = static_cast<int>(batch.tokens.size());
  for (const auto& sequence : running_) {
    const int rows_left = config_.max_rows - static_cast<int>(batch.tokens.size());
    if (sequence->decoding() || sequence->arriving || rows_left == 0) continue;
    const int logits_left = config_.max_logit_rows - static_cast<int>(batch.logits.size());
    const int left = sequence->length() - sequence->scheduled;
    int rows = std::min(rows_left, left);
    if (sequence->options.kind == RequestKind::score) {
      rows = std::min(rows, logits_left);
    } else if (logits_left == 0 && sequence->options.kind == RequestKind::generate) {
      rows = std::min(rows, left - 1);  // all but the row that wants logits
    }
    rows = rows_until_kept(*sequence, rows);
    if (rows > 0) add_rows(batch, *sequence, rows);
  }
  if (batch.parts.empty()) return false;

  add_tables(batch);
  const bool fed =
      std::any_of(batch.token_from.begin(), batch.token_from.end(), [](int32_t from) { return from >= 0; });
  batch.step.rows = static_cast<int>(batch.tokens.size());
  batch.step.decode_rows = decode_rows;
  batch.step.tokens = batch.tokens;
  batch.step.token_from = fed ? std::span<const int32_t>(batch.token_from) : std::span<const int32_t>();
  batch.step.positions = batch.positions;
  batch.step.sequences = batch.sequences;
  batch.step.block_tables = batch.block_tables;
  batch.step.logits = batch.logits;
  batch.step.adjustments = batch.adjustments;
  batch.step.table_updates = batch.table_updates;
  batch.step.masks = batch.masks;
  batch.step.hidden_rows = batch.hidden_rows;
  for (StepBatch::Part& part : batch.parts) {
    Sequence& sequence = *part.sequence;
    sequence.scheduled += part.rows;
    keep_states(part);
    if (sequence.options.kind != RequestKind::generate || part.logits == 0) continue;
    sequence.pending++;
    sequence.pending_choice = part.first_logit + part.logits - 1;
  }
  under_way_.push_back(&batch);
  return true;
}

void Scheduler::take_arrived() {
  const auto settle = [&](Sequence& sequence) {
    kv_.settle(sequence.blocks);
    sequence.arriving = false;
  };
  bool others = !under_way_.empty();
  for (const auto& sequence : running_) {
    if (sequence->arriving && kv_.at_rest(sequence->blocks)) settle(*sequence);
    others = others || !sequence->arriving;
  }
  if (!others && !running_.empty()) settle(*running_.front());
}

void Scheduler::add_tables(StepBatch& batch) const {
  size_t stride = 0;
  for (const auto& part : batch.parts) {
    for (const auto& blocks : part.sequence->blocks) stride = std::max(stride, blocks.size());
  }
  batch.block_tables.assign(static_cast<size_t>(kv_.classes()) * batch.parts.size() * stride, 0);
  auto table = batch.block_tables.begin();
  for (int c = 0; c < kv_.classes(); c++) {
    for (const auto& part : batch.parts) {
      const std::vector<int32_t>& blocks = part.sequence->blocks[c];
      // Of a block that was dropped nothing is read: any id does.
      std::transform(blocks.begin(), blocks.end(), table, [](int32_t id) { return std::max(id, 0); });
      table += static_cast<ptrdiff_t>(stride);
    }
  }
  batch.step.block_table_stride = static_cast<int>(stride);
}

void Scheduler::read(StepBatch& batch, std::span<const int32_t> chosen) {
  under_way_.pop_front();
  for (StepBatch::Part& part : batch.parts) {
    if (part.sequence == nullptr) {
      kv_.give_up_states(part.kept);
      continue;
    }
    Sequence& sequence = *part.sequence;
    if (part.decode) sequence.decoded_from = std::min(sequence.decoded_from, sequence.confirmed);
    const std::span<const int32_t> drafts = std::span(sequence.tokens).last(part.drafts);
    part.accepted = 0;
    while (part.accepted < part.drafts && chosen[part.first_logit + part.accepted] == drafts[part.accepted]) {
      part.accepted++;
    }
    sequence.confirmed += part.rows - part.drafts + part.accepted;
    if (part.drafts > 0) sequence.scheduled = sequence.confirmed;  // behind those that stand all is computed again
    if (sequence.options.kind == RequestKind::generate && part.logits > 0) sequence.pending--;
    if (config_.prefix_reuse) {
      for (; (sequence.remembered + 1) * kKvBlockTokens <= sequence.confirmed; sequence.remembered++) {
        kv_.remember(sequence.tokens, sequence.blocks, sequence.remembered,
                     (sequence.remembered + 1) * kKvBlockTokens > sequence.decoded_from);
      }
    }
    if (has_state_) read_states(part);
    keep_drafts(sequence, 0);  // those that stand are appended like any token
    sequence.acceptance.take(part.drafts, part.accepted);
    if (asks_model(sequence)) model_acceptance_.take(part.drafts, part.accepted);
    if (part.drafts > 0) {
      sequence.followed = part.accepted > 0;
      sequence.expected = -1;
    }
    sequence.drafted_tokens += part.drafts;
    sequence.accepted_tokens += part.accepted;
    counters_.drafted_tokens += part.drafts;
    counters_.accepted_tokens += part.accepted;
    drop_behind_windows(sequence);
  }
}

std::unique_ptr<Sequence> Scheduler::remove(uint64_t id) {
  for (Sequences* list : {&running_, &preempted_, &waiting_}) {
    const auto it = std::find_if(list->begin(), list->end(), [id](const auto& sequence) { return sequence->id == id; });
    if (it == list->end()) continue;
    std::unique_ptr<Sequence> found = std::move(*it);
    list->erase(it);
    // Passes under way still compute its rows. Its blocks may be given away: what writes to them next comes after
    // those.
    for (StepBatch* batch : under_way_) {
      for (StepBatch::Part& part : batch->parts) {
        if (part.sequence == found.get()) part.sequence = nullptr;
      }
    }
    if (list == &waiting_) config_.queued->fetch_sub(1, std::memory_order_relaxed);
    leave_table(*found);
    kv_.release(found->blocks);
    kv_.discard(found->saved);
    forget_drafts(*found);
    return found;
  }
  return nullptr;
}

std::vector<uint64_t> Scheduler::running_ids() const {
  std::vector<uint64_t> out;
  for (const auto& sequence : running_) out.push_back(sequence->id);
  return out;
}

std::vector<uint64_t> Scheduler::ids(const std::function<bool(const Sequence&, bool waiting)>& chosen) const {
  std::vector<uint64_t> out;
  for (const Sequences* list : {&running_, &preempted_, &waiting_}) {
    for (const auto& sequence : *list) {
      if (chosen(*sequence, list == &waiting_)) out.push_back(sequence->id);
    }
  }
  return out;
}

}  // namespace millrace
