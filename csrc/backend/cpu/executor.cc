#include "backend/cpu/executor.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <thread>

#include "backend/cpu/stream.h"
#include "backend/logit_table.h"
#include "backend/sample_arithmetic.h"
#include "core/error.h"
#include "core/relax.h"
#include "model/rope.h"

namespace millrace {

namespace {

void require(bool condition, const char* what) {
  if (condition) return;
  throw Error(code::kInternal, format("step: %s", what), "report this as a bug: the engine checks its steps");
}

// Polls: what comes next is microseconds away. After a while in turns with others, for a machine of few cores.
// False if the pass was given up.
bool await_ticket(const HopState& hop, uint64_t ticket) {
  for (int spin = 0; hop.sent.load(std::memory_order_acquire) < ticket; spin++) {
    if (hop.given_up.load(std::memory_order_acquire) != 0) return false;
    if (spin < 100000) {
      cpu_relax();
    } else {
      std::this_thread::yield();
    }
  }
  return true;
}

}  // namespace

CpuExecutor::CpuExecutor(const ExecutorConfig& config, std::shared_ptr<ComputePool> compute,
                         std::shared_ptr<const CpuStreamHooks> hooks)
    : config_(config),
      compute_(std::move(compute)),
      hooks_(std::move(hooks)),
      unit_table_(config.units.size(), nullptr),
      mixtures_(mixtures_of(config.program)),
      carried_(config.program.carried()),
      row_scratch_(compute_->pool.threads()) {
  const Program& program = config_.program;
  if (config_.units.size() != program.units.size() || config_.tables.size() != program.tables.size() ||
      config_.max_rows < 1 || config_.max_logit_rows < 0 || config_.max_context < 1 ||
      (!config_.kv.empty() && config_.kv.size() != program.kv.size()) || config_.tables[0].rows == nullptr) {
    throw Error(code::kInternal, "executor: the configuration does not belong to the model", "report this as a bug");
  }
  if (config_.drawn) check_routes(*config_.drawn, program);
  if (!config_.kernels.empty()) {
    throw Error(code::kInvalidArgument,
                "a kernel of one's own runs on a GPU; this is the CPU (" + config_.kernels[0].source + ")",
                "load the model on 'cuda'");
  }
  // Widths are rounded to whole cache lines so that rows of different threads never share one.
  std::vector<size_t> offsets;
  size_t floats = 0;
  for (size_t value = 0; value < program.values.size(); value++) {
    const bool logits = static_cast<int>(value) == program.logits;
    offsets.push_back(floats);
    floats += static_cast<size_t>(logits ? config_.max_logit_rows : config_.max_rows) *
              round_up(static_cast<size_t>(program.values[value]), 16);
  }
  workspace_ = HostMemory(floats * sizeof(float), "the workspace of the CPU executor");
  for (const size_t offset : offsets) values_.push_back(reinterpret_cast<float*>(workspace_.data()) + offset);
  for (size_t unit = 0; unit < config_.experts_apart.size(); unit++) {
    Apart& apart = apart_.emplace_back();
    const ExpertsOp* experts = experts_of(program.units[unit]);
    if (!config_.experts_apart[unit] || experts == nullptr) continue;
    apart.layout = experts_layout(*experts, config_.units[unit]);
    apart.first = logged_experts_;
    apart.addresses.resize(static_cast<size_t>(experts->experts));
    apart.in_ram.resize(apart.addresses.size());
    logged_experts_ += apart.addresses.size();
  }
  tokens_.reserve(config_.max_rows);
  chosen_.resize(std::max(1, config_.max_logit_rows), 0);
  for (const RopeSpec& rope : program.ropes) {
    ropes_.emplace_back(static_cast<size_t>(config_.max_context) * rope.head_dim * sizeof(float), "the rope table");
  }
}

size_t CpuExecutor::workspace_bytes() const {
  size_t bytes = workspace_.size();
  for (const HostMemory& rope : ropes_) bytes += rope.size();
  return bytes;
}

void CpuExecutor::enqueue(Stream& stream, std::function<void()> operation) {
  static_cast<CpuStream&>(stream).enqueue([this, operation = std::move(operation)] {
    if (hooks_->before_compute) hooks_->before_compute();
    std::lock_guard lock(compute_->mutex);
    operation();
  });
}

void CpuExecutor::set_unit(Stream& stream, int unit, const std::byte* slab, bool permanent) {
  static_cast<CpuStream&>(stream).enqueue_always([this, unit, slab, permanent] {
    unit_table_[unit] = slab;
    if (!apart_.empty()) apart_[unit].now = permanent && apart_[unit].layout.has_value();
  });
}

void CpuExecutor::set_experts(Stream& stream, std::span<const ExpertAddress> experts) {
  static_cast<CpuStream&>(stream).enqueue_always([this, all = std::vector(experts.begin(), experts.end())] {
    for (const ExpertAddress& one : all) {
      apart_[one.unit].addresses[one.expert] = one.address;
      apart_[one.unit].in_ram[one.expert] = one.in_ram;
    }
  });
}

void CpuExecutor::offer_frames(Stream& stream, std::span<std::byte* const> frames, bool anew) {
  static_cast<CpuStream&>(stream).enqueue_always([this, anew, all = std::vector(frames.begin(), frames.end())] {
    if (anew) frames_.clear();
    frames_.insert(frames_.end(), all.begin(), all.end());
  });
}

void CpuExecutor::check(const Step& step) const {
  const int vocab = config_.program.vocab;
  const auto size = [](const auto& span) { return static_cast<int64_t>(span.size()); };
  require(step.rows >= 1 && step.rows <= config_.max_rows, "rows must be between 1 and max_rows");
  require(step.decode_rows >= 0 && step.decode_rows <= step.rows, "decode_rows must not exceed rows");
  require(size(step.tokens) >= step.rows && size(step.positions) >= step.rows && size(step.sequences) >= step.rows,
          "tokens, positions and sequences must cover all rows");
  require(step.token_from.empty() || size(step.token_from) >= step.rows, "token_from must cover all rows");
  for (const int32_t from : step.token_from) {
    require(from >= -1 && (step.chosen != nullptr || from < static_cast<int64_t>(last_requests_)),
            "a token is of no request of the step before");
  }
  require(step.block_table_stride >= 1, "block_table_stride must be positive");
  const int64_t classes = std::max<int64_t>(1, size(config_.kv));
  const int64_t sequences = size(step.block_tables) / step.block_table_stride / classes;
  std::vector<int32_t> blocks(sequences, 0);  // in use, of each sequence
  std::vector<int32_t> states(sequences, 0);
  for (int r = 0; r < step.rows; r++) {
    require(step.tokens[r] >= 0 && step.tokens[r] < vocab, "a token id is outside the vocabulary");
    require(step.positions[r] >= 0 && step.positions[r] < config_.max_context, "a position is outside the context");
    require(step.sequences[r] >= 0 && step.sequences[r] < sequences, "a sequence has no block table");
    int32_t& used = blocks[step.sequences[r]];
    used = std::max(used, step.positions[r] / kKvBlockTokens + 1);
    int32_t& behind = states[step.sequences[r]];
    behind = r < step.decode_rows ? behind + 1 : 1;
  }
  for (int64_t s = 0; s < sequences; s++) {
    require(blocks[s] <= step.block_table_stride, "a block table is too short for its positions");
    for (int64_t c = 0; c < size(config_.kv); c++) {
      const int32_t* table = step.block_tables.data() + (c * sequences + s) * step.block_table_stride;
      const int32_t used = config_.program.kv[c].state > 0 ? states[s] : blocks[s];
      require(used <= step.block_table_stride, "a block table is too short for its rows");
      for (int32_t b = 0; b < used; b++) {
        require(table[b] >= 0 && table[b] < config_.kv[c].blocks, "a KV block id is outside the cache");
      }
    }
  }
  require(size(step.logits) <= config_.max_logit_rows, "more logit requests than max_logit_rows");
  int32_t last = 0;
  for (const LogitRequest& request : step.logits) {
    require(request.row >= last && request.row < step.rows, "logit requests must be in ascending order of row");
    require(request.target < vocab, "a target is outside the vocabulary");
    last = request.row;
    require(request.adjustments_begin >= 0 && request.adjustments >= 0 &&
                int64_t{request.adjustments_begin} + request.adjustments <= size(step.adjustments),
            "a logit request's adjustments are outside the step's");
    require(request.top_logprobs >= 0 && request.top_logprobs <= kMostTopLogprobs,
            "top_logprobs must be between 0 and what devices give");
    require(request.mask < size(step.masks), "a logit request's mask is outside the step's");
    require(request.mask < 0 || !request.keep_logits, "a row that is kept has no mask");
    require(request.slot >= -1 && request.slot < config_.max_logit_rows, "a logit request's slot does not exist");
    require(!request.counts || (request.slot >= 0 && request.sample && request.target < 0),
            "what a logit request counts needs a slot and a choice");
  }
  for (const LogitTableUpdate& update : step.table_updates) {
    require(update.slot >= 0 && update.slot < config_.max_logit_rows, "an updated slot does not exist");
    require(update.begin >= 0 && update.count >= 0 && int64_t{update.begin} + update.count <= size(step.adjustments),
            "an update's entries are outside the step's");
    require(update.count <= kLogitTableEntries, "an update has more entries than a table");
  }
  last = step.decode_rows - 1;
  for (const int32_t row : step.hidden_rows) {
    require(row > last && row < step.rows, "hidden rows must be prefill rows in ascending order");
    last = row;
  }
  for (const LogitAdjustment& adjustment : step.adjustments) {
    require(adjustment.token >= 0 && adjustment.token < vocab, "an adjusted token is outside the vocabulary");
  }
}

void CpuExecutor::begin(Stream& stream, const Step& step, StepOutput& output) {
  check(step);
  last_requests_ = step.logits.size();
  static_cast<CpuStream&>(stream).enqueue_always([this, step, &output] {
    step_ = step;
    output_ = &output;
    output.expert_rows.assign(logged_experts_, 0);
    output.filled.clear();
    output.routes.assign(step.logs_routes ? static_cast<size_t>(step.rows) * mixtures_.routed() : 0, 0);
    take_tokens();
    take_table_updates();
  });
}

// Within what was reserved, whatever became of the step before.
void CpuExecutor::take_tokens() {
  tokens_.assign(step_.tokens.begin(), step_.tokens.begin() + step_.rows);
  for (size_t row = 0; row < step_.token_from.size(); row++) {
    const int32_t from = step_.token_from[row];
    if (from >= 0) tokens_[row] = std::max((step_.chosen != nullptr ? step_.chosen : chosen_.data())[from], 0);
  }
}

void CpuExecutor::take_table_updates() {
  if (tables_.empty() && !step_.table_updates.empty()) tables_.resize(config_.max_logit_rows);
  for (const LogitTableUpdate& update : step_.table_updates) {
    update_table(tables_[update.slot], update.whole != 0, step_.adjustments.subspan(update.begin, update.count));
  }
}

void CpuExecutor::embed(Stream& stream) {
  enqueue(stream, [this] {
    run_ops(config_.program.embed, {nullptr, nullptr, 0, step_.rows, -1});
    grow_ropes();
  });
}

void CpuExecutor::run(Stream& stream, int unit, RowKind rows) {
  enqueue(stream, [this, unit, rows] { run_unit(unit, rows); });
}

void CpuExecutor::send(Stream& stream, const Hop& hop, int rows, uint64_t ticket) {
  static_cast<CpuStream&>(stream).enqueue(
      [this, hop, rows, ticket] {
        std::memcpy(hop.rows, values_[kResidual], static_cast<size_t>(rows) * config_.program.hidden() * sizeof(float));
        hop.state->sent.store(ticket, std::memory_order_release);
      },
      // The rows will never come: nobody is to wait for them.
      [hop] { hop.state->given_up.store(1, std::memory_order_release); });
}

void CpuExecutor::receive(Stream& stream, const Hop& hop, int rows, uint64_t ticket) {
  static_cast<CpuStream&>(stream).enqueue([this, hop, rows, ticket] {
    // Of a pass that was given up somebody may still be writing rows.
    if (await_ticket(*hop.state, ticket)) {
      std::memcpy(values_[kResidual], hop.rows, static_cast<size_t>(rows) * config_.program.hidden() * sizeof(float));
    }
    if (output_ == nullptr) step_.rows = step_.decode_rows = rows;  // outside of begin() and end()
  });
}

void CpuExecutor::copy_carried(std::byte* there, bool over) {
  for (const int value : carried_) {
    const size_t bytes = static_cast<size_t>(step_.rows) * width(value) * sizeof(float);
    std::memcpy(over ? there : reinterpret_cast<std::byte*>(values_[value]),
                over ? reinterpret_cast<const std::byte*>(values_[value]) : there, bytes);
    there += bytes;
  }
}

void CpuExecutor::hand_over(Stream& stream, std::byte* rows) {
  static_cast<CpuStream&>(stream).enqueue([this, rows] { copy_carried(rows, true); });
}

void CpuExecutor::take_over(Stream& stream, const std::byte* rows) {
  enqueue(stream, [this, rows] {
    copy_carried(const_cast<std::byte*>(rows), false);
    grow_ropes();
  });
}

size_t CpuExecutor::carried_bytes() const {
  size_t floats = 0;
  for (const int value : carried_) floats += static_cast<size_t>(width(value));
  return config_.max_rows * floats * sizeof(float);
}

void CpuExecutor::keep_hidden(Stream& stream) {
  enqueue(stream, [this] {
    const auto hidden = static_cast<size_t>(config_.program.hidden());
    output_->hidden.resize(step_.hidden_rows.size() * hidden);
    float* to = output_->hidden.data();
    for (const int32_t row : step_.hidden_rows) {
      std::memcpy(to, values_[kResidual] + row * hidden, hidden * sizeof(float));
      to += hidden;
    }
  });
}

void CpuExecutor::sample(Stream& stream) {
  enqueue(stream, [this] { run_sample(); });
}

void CpuExecutor::end(Stream& stream) {
  static_cast<CpuStream&>(stream).enqueue_always([this] {
    step_ = Step{};
    output_ = nullptr;
  });
}

ExecutorCounters CpuExecutor::counters() const {
  return {weight_bytes_.load(std::memory_order_relaxed)};
}

const std::byte* CpuExecutor::slab(int unit) const {
  const std::byte* slab = unit_table_[unit];
  if (slab != nullptr) return slab;
  throw Error(code::kInternal, format("unit %d was computed before set_unit", unit), "report this as a bug");
}

void CpuExecutor::grow_ropes() {
  const int positions = *std::max_element(step_.positions.begin(), step_.positions.begin() + step_.rows) + 1;
  if (positions <= rope_positions_) return;
  // By the hundred, so that decoding pays for it rarely; many at a time are spread over the pool.
  constexpr int kTogether = 128;
  const int end = std::min<int>(config_.max_context, static_cast<int>(round_up(positions, kTogether)));
  const int begin = rope_positions_;
  for (size_t i = 0; i < ropes_.size(); i++) {
    const RopeSpec rope = config_.program.ropes[i].of_context(config_.max_context);
    auto* table = reinterpret_cast<float*>(ropes_[i].data());
    compute_->pool.parallel_for((end - begin + kTogether - 1) / kTogether, [&](int64_t index, int) {
      const int from = begin + static_cast<int>(index) * kTogether;
      const std::vector<float> rows = rope_table(rope, from, std::min(end, from + kTogether));
      std::memcpy(table + static_cast<size_t>(from) * rope.head_dim, rows.data(), rows.size() * sizeof(float));
    });
  }
  rope_positions_ = end;
}

void CpuExecutor::run_sample() {
  const size_t vocab = config_.program.vocab;
  const float* logits_rows = values_[config_.program.logits];
  const size_t requests = step_.logits.size();
  StepOutput& output = *output_;
  output.tokens.assign(requests, -1);
  output.logprobs.assign(requests, std::numeric_limits<float>::quiet_NaN());
  std::vector<size_t> kept(requests), top(requests);
  size_t kept_rows = 0, top_count = 0;
  for (size_t i = 0; i < requests; i++) {
    kept[i] = kept_rows;
    if (step_.logits[i].keep_logits) kept_rows++;
    top[i] = top_count;
    top_count += step_.logits[i].top_logprobs;
  }
  output.top_tokens.resize(top_count);
  output.top_logprobs.resize(top_count);
  output.logits.resize(kept_rows * vocab);
  compute_->pool.parallel_for(static_cast<int64_t>(requests), [&](int64_t i, int thread) {
    if (hooks_->before_answer) hooks_->before_answer();
    const LogitRequest& request = step_.logits[i];
    const std::span<const float> logits(logits_rows + logit_row_[i] * vocab, vocab);
    const auto count = static_cast<size_t>(request.top_logprobs);
    RowChanges changes{{}, step_.adjustments, step_.masks};
    if (request.slot >= 0) changes.table = tables_.at(request.slot);
    const RowAnswer answer = answer_row(request, logits, changes, std::span(output.top_tokens).subspan(top[i], count),
                                        std::span(output.top_logprobs).subspan(top[i], count), row_scratch_[thread]);
    output.tokens[i] = answer.token;
    output.logprobs[i] = answer.logprob;
    if (request.keep_logits) std::memcpy(output.logits.data() + kept[i] * vocab, logits.data(), vocab * sizeof(float));
  });
  for (size_t i = 0; i < requests; i++) {
    const LogitRequest& request = step_.logits[i];
    if (request.counts && output.tokens[i] >= 0) {
      count_generated(adjustment_of(tables_[request.slot], 0, {output.tokens[i]}));
    }
  }
  std::copy(output.tokens.begin(), output.tokens.end(), chosen_.begin());
}

}  // namespace millrace
