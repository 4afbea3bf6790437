// The operations of a pass: which kernels, over which rows, with which of the working memory.
#include "cuda/attention.h"
#include "cuda/check.h"
#include "cuda/elementwise.h"
#include "cuda/embed.h"
#include "cuda/executor.h"
#include "cuda/hop.h"
#include "cuda/norm.h"
#include "cuda/plan/decode.h"
#include "cuda/ranges.h"
#include "cuda/sample.h"

namespace millrace::cuda {

Weights CudaExecutor::weights(int unit) const {
  return {device_unit_table_, unit, unit_table_.early(unit)};
}

void CudaExecutor::run(const Held& held, cudaStream_t stream) {
  static constexpr const char* kNames[] = {"embed",   "attention", "feed-forward", "head",  "send",
                                           "receive", "hand over", "take over",    "sample"};
  const Range range(kNames[held.operation], held.unit);
  const ModelSpec& spec = config_.spec;
  switch (held.operation) {
    case Operation::embed:
      check(cuda::embed(embedding_->device_address(), config_.embedding.type, device_inputs_.tokens, rows(),
                        spec.hidden, residual_, spec.hidden, stream, false),
            "embed");
      break;
    case Operation::attention:
      run_attention(held.unit, stream);
      break;
    case Operation::feed_forward:
      run_feed_forward(held.unit, held.rows, stream);
      break;
    case Operation::head:
      run_head(held.unit, stream);
      break;
    case Operation::send:
    case Operation::receive:
      run_hop(held, stream);
      break;
    case Operation::hand_over:
    case Operation::take_over:
      run_move(held, stream);
      break;
    case Operation::sample:
      run_sample(stream);
      break;
  }
}

void CudaExecutor::apply(int unit, const LinearLayout& layout, const __half* x, int x_stride, LinearEpilogue epilogue,
                         float* y, int y_stride, __half* act, cudaStream_t stream, const float* norm_x) {
  for (const LinearLayout::Segment& segment : layout.segments) {
    LinearArguments arguments;
    arguments.weights = weights(unit);
    arguments.matrix = segment.matrix;
    arguments.x_stride = x_stride;
    arguments.epilogue = epilogue;
    arguments.y_stride = y_stride;
    arguments.act_stride = padded_width(config_.spec.intermediate);
    arguments.intermediate = config_.spec.intermediate;
    arguments.gathered = gathered_;
    if (norm_x != nullptr) {
      arguments.norm_x = norm_x;
      arguments.norm_offset = config_.units[unit].norm_offset;
      arguments.norm_epsilon = static_cast<float>(config_.spec.rms_epsilon);
    }
    const auto from_row = [&](int row, int count) {
      arguments.rows = count;
      arguments.x = x + static_cast<size_t>(row) * x_stride;
      if (y != nullptr) arguments.y = y + static_cast<size_t>(row) * y_stride + segment.out_begin;
      if (act != nullptr) arguments.act = act + static_cast<size_t>(row) * arguments.act_stride;
    };
    if (shape_.decode_rows > 0) {
      from_row(0, shape_.decode_rows);
      const UserKernel* theirs = kernels_->find(lab::Kind::gemv, segment.matrix.code.type);
      check(theirs ? theirs->launch(arguments, stream) : linear_decode(arguments, stream, true), "a linear (decode)");
      counters_.weight_bytes_read += segment.matrix.bytes;
    }
    if (shape_.prefill_rows > 0) {
      from_row(shape_.decode_rows, shape_.prefill_rows);
      const UserKernel* theirs = kernels_->find(lab::Kind::gemm, segment.matrix.code.type);
      check(theirs ? theirs->launch(arguments, stream) : linear_prefill(arguments, stream, true), "a linear (prefill)");
      counters_.weight_bytes_read += segment.matrix.bytes;
    }
  }
  if (layout.has_bias) {
    check(add_bias(y, y_stride, rows(), layout.n, weights(unit), layout.bias_offset, stream, true), "a bias");
  }
}

void CudaExecutor::apply_normed(int unit, const float* residual, LinearEpilogue epilogue, float* y, int y_stride,
                                __half* act, cudaStream_t stream) {
  const ModelSpec& spec = config_.spec;
  const UnitLayout& layout = config_.units[unit];
  bool fused = shape_.prefill_rows == 0;
  for (const LinearLayout::Segment& segment : layout.first.segments) {
    fused = fused && decode_norms(segment.matrix, shape_.decode_rows) &&
            kernels_->find(lab::Kind::gemv, segment.matrix.code.type) == nullptr;  // theirs take normed rows
  }
  if (!fused) {
    check(rms_norm(residual, spec.hidden, weights(unit), layout.norm_offset, static_cast<float>(spec.rms_epsilon),
                   rows(), spec.hidden, normed_, padded_width(spec.hidden), stream, true),
          "a norm");
  }
  apply(unit, layout.first, normed_, padded_width(spec.hidden), epilogue, y, y_stride, act, stream,
        fused ? residual : nullptr);
}

void CudaExecutor::run_attention(int unit, cudaStream_t stream) {
  const ModelSpec& spec = config_.spec;
  const UnitLayout& layout = config_.units[unit];
  apply_normed(unit, residual_, LinearEpilogue::store, wide_, spec.qkv_width(), nullptr, stream);
  if (spec.qk_norm) {
    check(norm_heads(wide_, spec.qkv_width(), rows(), spec.heads, spec.kv_heads, spec.head_dim, weights(unit),
                     layout.query_norm_offset, layout.key_norm_offset, static_cast<float>(spec.rms_epsilon), stream,
                     true),
          "the norms of heads");
  }

  AttentionArguments arguments;
  arguments.heads = spec.heads;
  arguments.kv_heads = spec.kv_heads;
  arguments.head_dim = spec.head_dim;
  arguments.rope = rope_;
  arguments.block_tables = device_inputs_.block_tables;
  arguments.block_table_stride = block_table_stride_;
  arguments.kv_block_elements = static_cast<int64_t>(kv_block_bytes(spec) / sizeof(__half));
  const int place = config_.kv_layers.empty() ? layout.layer : config_.kv_layers[layout.layer];
  arguments.kv = reinterpret_cast<__half*>(config_.kv) +
                 static_cast<int64_t>(place) * config_.kv_blocks * arguments.kv_block_elements;
  arguments.out_stride = padded_width(spec.query_width());
  arguments.window = spec.sliding_window;
  arguments.max_context = shape_.context;
  arguments.partials = attention_partials_;
  arguments.counters = attention_counters_;
  arguments.early = true;  // a step's inputs are on the device before its first kernel, older keys even longer
  const auto from_row = [&](int row, int count) {
    arguments.rows = count;
    arguments.qkv = wide_ + static_cast<size_t>(row) * spec.qkv_width();
    arguments.positions = device_inputs_.positions + row;
    arguments.sequences = device_inputs_.sequences + row;
    arguments.out = attended_ + static_cast<size_t>(row) * arguments.out_stride;
  };
  if (shape_.decode_rows > 0) {
    from_row(0, shape_.decode_rows);
    check(attention_decode(arguments, stream, true), "attention (decode)");
  }
  if (shape_.prefill_rows > 0) {
    from_row(shape_.decode_rows, shape_.prefill_rows);
    check(attention_prefill(arguments, stream, true), "attention (prefill)");
  }
  apply(unit, layout.second, attended_, padded_width(spec.query_width()), LinearEpilogue::add, residual_, spec.hidden,
        nullptr, stream);
}

void CudaExecutor::run_feed_forward(int unit, RowKind kind, cudaStream_t stream) {
  const ModelSpec& spec = config_.spec;
  const UnitLayout& layout = config_.units[unit];
  // Rows of one kind alone: decode rows come first.
  const Shape shape = shape_;
  const int first = kind == RowKind::prefill ? shape.decode_rows : 0;
  if (kind == RowKind::prefill) shape_.decode_rows = 0;
  if (kind == RowKind::decode) shape_.prefill_rows = 0;
  float* residual = residual_ + static_cast<size_t>(first) * spec.hidden;
  if (layout.interleaved && !layout.first.has_bias) {
    apply_normed(unit, residual, LinearEpilogue::silu_mul, nullptr, 0, activated_, stream);
  } else {
    apply_normed(unit, residual, LinearEpilogue::store, wide_, layout.first.n, nullptr, stream);
    check(silu_mul(wide_, layout.first.n, layout.interleaved, rows(), spec.intermediate, activated_,
                   padded_width(spec.intermediate), stream, true),
          "an activation");
  }
  apply(unit, layout.second, activated_, padded_width(spec.intermediate), LinearEpilogue::add, residual, spec.hidden,
        nullptr, stream);
  shape_ = shape;
}

void CudaExecutor::run_hop(const Held& held, cudaStream_t stream) {
  void* rows = nullptr;
  void* state = nullptr;
  check(cudaHostGetDevicePointer(&rows, held.hop.rows, 0), "mapping rows for the CPU");
  check(cudaHostGetDevicePointer(&state, held.hop.state, 0), "mapping rows for the CPU");
  const int width = config_.spec.hidden;
  const auto offset = static_cast<uint64_t>(held.unit);
  if (held.operation == Operation::send) {
    check(send_rows(residual_, shape_.decode_rows, width, static_cast<float*>(rows), static_cast<HopState*>(state),
                    device_inputs_.hops_before, offset, hop_counter_, stream),
          "sending rows to the CPU");
  } else {
    check(receive_rows(residual_, shape_.decode_rows, width, static_cast<const float*>(rows),
                       static_cast<const HopState*>(state), device_inputs_.hops_before, offset, stream),
          "receiving rows from the CPU");
  }
}

void CudaExecutor::run_move(const Held& held, cudaStream_t stream) {
  auto* there = reinterpret_cast<float*>(held.hop.rows);  // one address on every device, where it is host memory too
  const bool over = held.operation == Operation::hand_over;
  check(move_rows(over ? residual_ : there, rows(), config_.spec.hidden, over ? there : residual_, stream),
        "moving rows between GPUs");
}

size_t CudaExecutor::residual_bytes() const {
  return static_cast<size_t>(max_padded_rows_) * config_.spec.hidden * sizeof(float);
}

void CudaExecutor::run_head(int unit, cudaStream_t stream) {
  const ModelSpec& spec = config_.spec;
  const UnitLayout& layout = config_.units[unit];
  const int hidden = padded_width(spec.hidden);
  if (shape_.logit_rows == 0) return;
  check(rms_norm(residual_, spec.hidden, weights(unit), layout.norm_offset, static_cast<float>(spec.rms_epsilon),
                 shape_.logit_rows, spec.hidden, normed_, hidden, stream, true, device_inputs_.logit_rows),
        "the final norm");
  // Rows that want logits are of one kind here, whatever they were in the layers.
  const Shape shape = shape_;
  shape_.decode_rows = shape.logit_rows;
  shape_.prefill_rows = 0;
  apply(unit, layout.first, normed_, hidden, LinearEpilogue::store, logits_, spec.vocab, nullptr, stream);
  shape_ = shape;
}

void CudaExecutor::run_sample(cudaStream_t stream) {
  if (shape_.logit_rows == 0) return;
  SampleArguments arguments;
  arguments.logits = logits_;
  arguments.vocab = config_.spec.vocab;
  arguments.requests = device_inputs_.requests;
  arguments.count = shape_.logit_rows;
  arguments.tokens = device_tokens_;
  arguments.logprobs = device_logprobs_;
  arguments.scratch = sample_scratch_;
  check(cuda::sample(arguments, stream, true), "sampling");
}

}  // namespace millrace::cuda
