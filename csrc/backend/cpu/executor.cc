#include "backend/cpu/executor.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <thread>

#include "backend/cpu/stream.h"
#include "backend/cpu/vector_ops.h"
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

// Rows are handed to threads by several: a row of norm or rope takes about a microsecond.
constexpr int kRowsTogether = 4;

template <typename Body>
void for_rows(ThreadPool& pool, int rows, Body&& body) {
  pool.parallel_for((rows + kRowsTogether - 1) / kRowsTogether, [&](int64_t index, int) {
    const int begin = static_cast<int>(index) * kRowsTogether;
    for (int r = begin; r < std::min(rows, begin + kRowsTogether); r++) body(r);
  });
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
      row_scratch_(compute_->pool.threads()) {
  const ModelSpec& spec = config_.spec;
  if (config_.units.size() != static_cast<size_t>(unit_count(spec)) || config_.max_rows < 1 ||
      config_.max_logit_rows < 0 || config_.max_context < 1 || config_.kv_blocks < 0 ||
      config_.embedding.rows == nullptr) {
    throw Error(code::kInternal, "executor: the configuration does not belong to the model", "report this as a bug");
  }
  if (!config_.kernels.empty()) {
    throw Error(code::kInvalidArgument,
                "a kernel of one's own runs on a GPU; this is the CPU (" + config_.kernels[0].source + ")",
                "load the model on 'cuda'");
  }
  // Widths are rounded to whole cache lines so that rows of different threads never share one.
  const auto floats = [](size_t rows, size_t width) { return rows * round_up(width, 16); };
  const size_t rows = config_.max_rows;
  const size_t hidden = floats(rows, spec.hidden);
  const size_t wide = floats(rows, std::max(spec.qkv_width(), spec.intermediate));
  const size_t attended = floats(rows, spec.query_width());
  const size_t logits = floats(config_.max_logit_rows, spec.vocab);
  workspace_ = HostMemory((2 * hidden + wide + attended + logits) * sizeof(float), "the workspace of the CPU executor");
  residual_ = reinterpret_cast<float*>(workspace_.data());
  normed_ = residual_ + hidden;
  wide_ = normed_ + hidden;
  attended_ = wide_ + wide;
  logits_ = attended_ + attended;
  rope_ = HostMemory(static_cast<size_t>(config_.max_context) * spec.head_dim * sizeof(float), "the rope table");
}

void CpuExecutor::enqueue(Stream& stream, std::function<void()> operation) {
  static_cast<CpuStream&>(stream).enqueue([this, operation = std::move(operation)] {
    if (hooks_->before_compute) hooks_->before_compute();
    std::lock_guard lock(compute_->mutex);
    operation();
  });
}

void CpuExecutor::set_unit(Stream& stream, int unit, const std::byte* slab, bool) {
  static_cast<CpuStream&>(stream).enqueue_always([this, unit, slab] { unit_table_[unit] = slab; });
}

void CpuExecutor::check(const Step& step) const {
  const ModelSpec& spec = config_.spec;
  const auto size = [](const auto& span) { return static_cast<int64_t>(span.size()); };
  require(step.rows >= 1 && step.rows <= config_.max_rows, "rows must be between 1 and max_rows");
  require(step.decode_rows >= 0 && step.decode_rows <= step.rows, "decode_rows must not exceed rows");
  require(size(step.tokens) >= step.rows && size(step.positions) >= step.rows && size(step.sequences) >= step.rows,
          "tokens, positions and sequences must cover all rows");
  require(step.block_table_stride >= 1, "block_table_stride must be positive");
  const int64_t sequences = size(step.block_tables) / step.block_table_stride;
  std::vector<int32_t> blocks(sequences, 0);  // in use, of each sequence
  for (int r = 0; r < step.rows; r++) {
    require(step.tokens[r] >= 0 && step.tokens[r] < spec.vocab, "a token id is outside the vocabulary");
    require(step.positions[r] >= 0 && step.positions[r] < config_.max_context, "a position is outside the context");
    require(step.sequences[r] >= 0 && step.sequences[r] < sequences, "a sequence has no block table");
    int32_t& used = blocks[step.sequences[r]];
    used = std::max(used, step.positions[r] / kKvBlockTokens + 1);
  }
  for (int64_t s = 0; s < sequences; s++) {
    require(blocks[s] <= step.block_table_stride, "a block table is too short for its positions");
    const int32_t* table = step.block_tables.data() + s * step.block_table_stride;
    for (int32_t b = 0; b < blocks[s]; b++) {
      require(table[b] >= 0 && table[b] < config_.kv_blocks, "a KV block id is outside the cache");
    }
  }
  require(size(step.logits) <= config_.max_logit_rows, "more logit requests than max_logit_rows");
  int32_t last = 0;
  for (const LogitRequest& request : step.logits) {
    require(request.row >= last && request.row < step.rows, "logit requests must be in ascending order of row");
    require(request.target < spec.vocab, "a target is outside the vocabulary");
    last = request.row;
    require(request.adjustments_begin >= 0 && request.adjustments >= 0 &&
                int64_t{request.adjustments_begin} + request.adjustments <= size(step.adjustments),
            "a logit request's adjustments are outside the step's");
    require(request.top_logprobs >= 0, "top_logprobs must not be negative");
    require(request.mask < size(step.masks), "a logit request's mask is outside the step's");
  }
  for (const LogitAdjustment& adjustment : step.adjustments) {
    require(adjustment.token >= 0 && adjustment.token < spec.vocab, "an adjusted token is outside the vocabulary");
  }
}

void CpuExecutor::begin(Stream& stream, const Step& step, StepOutput& output) {
  check(step);
  static_cast<CpuStream&>(stream).enqueue_always([this, step, &output] {
    step_ = step;
    output_ = &output;
  });
}

void CpuExecutor::embed(Stream& stream) {
  enqueue(stream, [this] { run_embed(); });
}

void CpuExecutor::attention(Stream& stream, int unit) {
  enqueue(stream, [this, unit] { run_attention(unit); });
}

void CpuExecutor::feed_forward(Stream& stream, int unit, RowKind rows) {
  enqueue(stream, [this, unit, rows] { run_feed_forward(unit, rows); });
}

void CpuExecutor::send(Stream& stream, const Hop& hop, int rows, uint64_t ticket) {
  static_cast<CpuStream&>(stream).enqueue(
      [this, hop, rows, ticket] {
        std::memcpy(hop.rows, residual_, static_cast<size_t>(rows) * config_.spec.hidden * sizeof(float));
        hop.state->sent.store(ticket, std::memory_order_release);
      },
      // The rows will never come: nobody is to wait for them.
      [hop] { hop.state->given_up.store(1, std::memory_order_release); });
}

void CpuExecutor::receive(Stream& stream, const Hop& hop, int rows, uint64_t ticket) {
  static_cast<CpuStream&>(stream).enqueue([this, hop, rows, ticket] {
    // Of a pass that was given up somebody may still be writing rows.
    if (await_ticket(*hop.state, ticket)) {
      std::memcpy(residual_, hop.rows, static_cast<size_t>(rows) * config_.spec.hidden * sizeof(float));
    }
    if (output_ == nullptr) step_.rows = step_.decode_rows = rows;  // outside of begin() and end()
  });
}

void CpuExecutor::hand_over(Stream& stream, std::byte* rows) {
  static_cast<CpuStream&>(stream).enqueue([this, rows] {
    std::memcpy(rows, residual_, static_cast<size_t>(step_.rows) * config_.spec.hidden * sizeof(float));
  });
}

void CpuExecutor::take_over(Stream& stream, const std::byte* rows) {
  enqueue(stream, [this, rows] {
    std::memcpy(residual_, rows, static_cast<size_t>(step_.rows) * config_.spec.hidden * sizeof(float));
    grow_rope();
  });
}

size_t CpuExecutor::residual_bytes() const {
  return static_cast<size_t>(config_.max_rows) * config_.spec.hidden * sizeof(float);
}

void CpuExecutor::head(Stream& stream, int unit) {
  enqueue(stream, [this, unit] { run_head(unit); });
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

void CpuExecutor::normalise(const float* x, int rows, const UnitLayout& layout, const std::byte* slab) {
  const int hidden = config_.spec.hidden;
  const VectorOps& ops = vector_ops();
  const auto* weight = reinterpret_cast<const float*>(slab + layout.norm_offset);
  for_rows(compute_->pool, rows, [&](int r) {
    const size_t at = static_cast<size_t>(r) * hidden;
    ops.rms_norm(x + at, weight, hidden, config_.spec.rms_epsilon, normed_ + at);
  });
}

void CpuExecutor::apply(const LinearLayout& layout, const std::byte* slab, const float* x, int rows, float* y,
                        Epilogue epilogue, const UnitLayout& unit) {
  LinearCall call;
  call.layout = &layout;
  call.slab = slab;
  call.x = x;
  call.x_stride = layout.k;
  call.rows = rows;
  call.y = y;
  call.y_stride = epilogue == Epilogue::silu_mul ? config_.spec.intermediate : layout.n;
  call.epilogue = epilogue;
  call.interleaved = unit.interleaved;
  call.intermediate = config_.spec.intermediate;
  linear(call, compute_->pool, linear_scratch_, weight_bytes_);
}

void CpuExecutor::grow_rope() {
  const int positions = *std::max_element(step_.positions.begin(), step_.positions.begin() + step_.rows) + 1;
  if (positions <= rope_positions_) return;
  // By the hundred, so that decoding pays for it rarely; many at a time are spread over the pool.
  constexpr int kTogether = 128;
  const int end = std::min<int>(config_.max_context, static_cast<int>(round_up(positions, kTogether)));
  const int begin = rope_positions_;
  auto* table = reinterpret_cast<float*>(rope_.data());
  compute_->pool.parallel_for((end - begin + kTogether - 1) / kTogether, [&](int64_t index, int) {
    const int from = begin + static_cast<int>(index) * kTogether;
    const std::vector<float> rows = rope_table(config_.spec, from, std::min(end, from + kTogether));
    std::memcpy(table + static_cast<size_t>(from) * config_.spec.head_dim, rows.data(), rows.size() * sizeof(float));
  });
  rope_positions_ = end;
}

void CpuExecutor::run_embed() {
  const int hidden = config_.spec.hidden;
  const EmbeddingTable& table = config_.embedding;
  const VectorOps& ops = vector_ops();
  const size_t row_bytes = hidden * element_bytes(table.type);
  for_rows(compute_->pool, step_.rows, [&](int r) {
    const std::byte* source = table.rows + step_.tokens[r] * row_bytes;
    float* destination = residual_ + static_cast<size_t>(r) * hidden;
    if (table.type == WeightType::f32) {
      std::memcpy(destination, source, row_bytes);
    } else if (table.type == WeightType::f16) {
      ops.from_half(reinterpret_cast<const uint16_t*>(source), hidden, destination);
    } else {
      ops.from_bfloat16(reinterpret_cast<const uint16_t*>(source), hidden, destination);
    }
  });
  grow_rope();
}

void CpuExecutor::run_attention(int unit) {
  const ModelSpec& spec = config_.spec;
  const UnitLayout& layout = config_.units[unit];
  const std::byte* weights = slab(unit);
  const VectorOps& ops = vector_ops();
  normalise(residual_, step_.rows, layout, weights);
  apply(layout.first, weights, normed_, step_.rows, wide_, Epilogue::store, layout);

  const size_t qkv = spec.qkv_width();
  const size_t block_bytes = kv_block_bytes(spec);
  const int place = config_.kv_layers.empty() ? layout.layer : config_.kv_layers[layout.layer];
  std::byte* kv = config_.kv + static_cast<size_t>(place) * config_.kv_blocks * block_bytes;
  const auto* rope = reinterpret_cast<const float*>(rope_.data());
  for_rows(compute_->pool, step_.rows, [&](int r) {
    float* q = wide_ + r * qkv;
    float* k = q + spec.query_width();
    const float* v = k + spec.kv_width();
    const int position = step_.positions[r];
    if (spec.qk_norm) {
      const auto* query_norm = reinterpret_cast<const float*>(weights + layout.query_norm_offset);
      const auto* key_norm = reinterpret_cast<const float*>(weights + layout.key_norm_offset);
      for (int h = 0; h < spec.heads + spec.kv_heads; h++) {
        float* head = q + h * spec.head_dim;
        ops.rms_norm(head, h < spec.heads ? query_norm : key_norm, spec.head_dim, spec.rms_epsilon, head);
      }
    }
    // Query and key heads lie side by side.
    ops.rope(q, spec.heads + spec.kv_heads, spec.head_dim, rope + static_cast<size_t>(position) * spec.head_dim);
    const int32_t block = step_.block_tables[static_cast<size_t>(step_.sequences[r]) * step_.block_table_stride +
                                             position / kKvBlockTokens];
    auto* base = reinterpret_cast<uint16_t*>(kv + block * block_bytes);
    const size_t head_elements = static_cast<size_t>(kKvBlockTokens) * spec.head_dim;
    const size_t within = static_cast<size_t>(position % kKvBlockTokens) * spec.head_dim;
    for (int h = 0; h < spec.kv_heads; h++) {
      ops.to_half(k + h * spec.head_dim, spec.head_dim, base + h * head_elements + within);
      ops.to_half(v + h * spec.head_dim, spec.head_dim, base + (spec.kv_heads + h) * head_elements + within);
    }
  });

  AttentionCall call;
  call.rows = step_.rows;
  call.heads = spec.heads;
  call.kv_heads = spec.kv_heads;
  call.head_dim = spec.head_dim;
  call.window = spec.sliding_window;
  call.q = wide_;
  call.q_stride = static_cast<int64_t>(qkv);
  call.out = attended_;
  call.out_stride = spec.query_width();
  call.positions = step_.positions;
  call.sequences = step_.sequences;
  call.block_tables = step_.block_tables;
  call.block_table_stride = step_.block_table_stride;
  call.kv = kv;
  call.block_bytes = block_bytes;
  millrace::attention(call, compute_->pool, attention_scratch_);

  apply(layout.second, weights, attended_, step_.rows, residual_, Epilogue::add, layout);
}

void CpuExecutor::run_feed_forward(int unit, RowKind kind) {
  const UnitLayout& layout = config_.units[unit];
  const std::byte* weights = slab(unit);
  const int begin = kind == RowKind::prefill ? step_.decode_rows : 0;
  const int rows = (kind == RowKind::decode ? step_.decode_rows : step_.rows) - begin;
  float* residual = residual_ + static_cast<size_t>(begin) * config_.spec.hidden;
  normalise(residual, rows, layout, weights);
  apply(layout.first, weights, normed_, rows, wide_, Epilogue::silu_mul, layout);
  apply(layout.second, weights, wide_, rows, residual, Epilogue::add, layout);
}

void CpuExecutor::run_head(int unit) {
  const UnitLayout& layout = config_.units[unit];
  const int hidden = config_.spec.hidden;
  logit_row_.clear();
  logit_rows_ = 0;
  int32_t last = -1;
  for (const LogitRequest& request : step_.logits) {
    if (request.row != last) {
      // Rows move down in place: a request's row is never before its place.
      std::memmove(residual_ + static_cast<size_t>(logit_rows_) * hidden,
                   residual_ + static_cast<size_t>(request.row) * hidden, hidden * sizeof(float));
      logit_rows_++;
      last = request.row;
    }
    logit_row_.push_back(logit_rows_ - 1);
  }
  if (logit_rows_ == 0) return;
  const std::byte* weights = slab(unit);
  normalise(residual_, logit_rows_, layout, weights);
  apply(layout.first, weights, normed_, logit_rows_, logits_, Epilogue::store, layout);
}

void CpuExecutor::run_sample() {
  const size_t vocab = config_.spec.vocab;
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
    const std::span<const float> logits(logits_ + logit_row_[i] * vocab, vocab);
    const auto count = static_cast<size_t>(request.top_logprobs);
    const RowAnswer answer =
        answer_row(request, logits, step_.adjustments, step_.masks, std::span(output.top_tokens).subspan(top[i], count),
                   std::span(output.top_logprobs).subspan(top[i], count), row_scratch_[thread]);
    output.tokens[i] = answer.token;
    output.logprobs[i] = answer.logprob;
    if (request.keep_logits) std::memcpy(output.logits.data() + kept[i] * vocab, logits.data(), vocab * sizeof(float));
  });
}

}  // namespace millrace
