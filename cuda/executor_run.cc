// The operations of a pass: which kernels, over which rows, with which of the working memory.
#include <algorithm>

#include "cuda/attention.h"
#include "cuda/check.h"
#include "cuda/delta.h"
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

void CudaExecutor::launch(const Held& held, cudaStream_t stream) {
  static constexpr const char* kNames[] = {"embed", "unit", "send", "receive", "hand over", "take over", "sample"};
  const bool named = held.operation == Operation::unit;
  const Range range(named ? config_.program.units[held.number].name.c_str() : kNames[held.operation], held.number);
  switch (held.operation) {
    case Operation::embed:
      run_ops(embed_, {0, 0, shape_.decode_rows, shape_.prefill_rows, nullptr, stream});
      break;
    case Operation::unit:
      run_unit(held.number, held.rows, stream);
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

void CudaExecutor::run_unit(int unit, RowKind kind, cudaStream_t stream) {
  Scope scope{unit, 0, shape_.decode_rows, shape_.prefill_rows, nullptr, stream};
  if (config_.program.units[unit].head) {
    if (shape_.logit_rows == 0) return;
    // Rows that want logits are of one kind here, whatever they were in the layers.
    scope.decode_rows = shape_.logit_rows;
    scope.prefill_rows = 0;
    scope.row_indices = device_inputs_.logit_rows;
  } else if (kind == RowKind::prefill) {  // rows of one kind alone: decode rows come first
    scope.begin = shape_.decode_rows;
    scope.decode_rows = 0;
  } else if (kind == RowKind::decode) {
    scope.prefill_rows = 0;
  }
  run_ops(units_[unit], scope);
}

void CudaExecutor::run_ops(const std::vector<Lowered>& ops, const Scope& scope) {
  for (const Lowered& lowered : ops) {
    std::visit([&](const auto& op) { run_op(op, lowered, scope); }, lowered.op);
  }
}

CudaExecutor::Operand CudaExecutor::operand(const Scope& scope, int value) const {
  Operand out;
  out.width = config_.program.values[value];
  out.stride = half_values_[value] != nullptr ? padded_width(out.width) : out.width;
  const size_t at = static_cast<size_t>(scope.begin) * out.stride;
  if (half_values_[value] != nullptr) {
    out.halves = half_values_[value] + at;
  } else {
    out.floats = float_values_[value] + at;
  }
  return out;
}

void CudaExecutor::apply(const LinearLayout& layout, const __half* x, int x_stride, const Output& output,
                         const Scope& scope, const float* norm_x, const NormOp* norm) {
  bool beside = output.epilogue == LinearEpilogue::store && scope.prefill_rows == 0 &&
                scope.decode_rows <= kSideBySideRows && weights(scope.unit).early;
  for (const LinearLayout::Segment& segment : layout.segments) {
    beside = beside && kernels_->find(lab::Kind::gemv, segment.matrix.code.type) == nullptr;
  }
  for (const LinearLayout::Segment& segment : layout.segments) {
    LinearArguments arguments;
    arguments.weights = weights(scope.unit);
    arguments.follows = beside && &segment != &layout.segments.front();
    arguments.leads = beside && &segment != &layout.segments.back();
    arguments.matrix = segment.matrix;
    arguments.x_stride = x_stride;
    arguments.epilogue = output.epilogue;
    arguments.y_stride = output.y_stride;
    arguments.act_stride = output.act_stride;
    arguments.intermediate = output.features;
    arguments.gathered = gathered_;
    if (norm_x != nullptr) {
      arguments.norm_x = norm_x;
      arguments.norm_offset = config_.units[scope.unit].vectors[norm->weight];
      arguments.norm_epsilon = static_cast<float>(norm->epsilon);
    }
    const auto from_row = [&](int row, int count) {
      arguments.rows = count;
      arguments.x = x + static_cast<size_t>(row) * x_stride;
      if (output.y != nullptr) {
        arguments.y = output.y + static_cast<size_t>(row) * output.y_stride + segment.out_begin;
      }
      if (output.act != nullptr) arguments.act = output.act + static_cast<size_t>(row) * arguments.act_stride;
    };
    if (scope.decode_rows > 0) {
      from_row(0, scope.decode_rows);
      const UserKernel* theirs = kernels_->find(lab::Kind::gemv, segment.matrix.code.type);
      check(theirs ? theirs->launch(arguments, scope.stream) : linear_decode(arguments, scope.stream, true),
            "a linear (decode)");
      counters_.weight_bytes_read += segment.matrix.bytes;
    }
    if (scope.prefill_rows > 0) {
      from_row(scope.decode_rows, scope.prefill_rows);
      const UserKernel* theirs = kernels_->find(lab::Kind::gemm, segment.matrix.code.type);
      check(theirs ? theirs->launch(arguments, scope.stream) : linear_prefill(arguments, scope.stream, true),
            "a linear (prefill)");
      counters_.weight_bytes_read += segment.matrix.bytes;
    }
  }
  if (layout.has_bias) {
    check(add_bias(output.y, output.y_stride, scope.rows(), layout.n, weights(scope.unit), layout.bias_offset,
                   scope.stream, true),
          "a bias");
  }
}

void CudaExecutor::apply_to(int in, const LinearLayout& layout, const Lowered& lowered, const Output& output,
                            const Scope& scope) {
  const Operand x = operand(scope, in);
  if (!lowered.before) {
    if (x.halves != nullptr) return apply(layout, x.halves, x.stride, output, scope);
    const int stride = padded_width(x.width);
    check(
        to_halves(x.floats, x.stride, scope.rows(), x.width, converted_, stride, scope.row_indices, scope.stream, true),
        "a conversion");
    return apply(layout, converted_, stride, output, scope);
  }
  const NormOp& norm = *lowered.before;
  bool fused = scope.prefill_rows == 0 && scope.row_indices == nullptr;
  for (const LinearLayout::Segment& segment : layout.segments) {
    fused = fused && decode_norms(segment.matrix, scope.decode_rows) &&
            kernels_->find(lab::Kind::gemv, segment.matrix.code.type) == nullptr;  // theirs take normed rows
  }
  const Operand from = operand(scope, norm.in);
  if (!fused) run_op(norm, {norm, {}, {}}, scope);
  apply(layout, x.halves, x.stride, output, scope, fused ? from.floats : nullptr, &norm);
}

void CudaExecutor::run_op(const NormOp& op, const Lowered& lowered, const Scope& scope) {
  const Operand in = operand(scope, op.in), out = operand(scope, op.out);
  const UnitLayout& layout = config_.units[scope.unit];
  const auto epsilon = static_cast<float>(op.epsilon);
  // Only the head reads rows by their indices, and only from the residual stream.
  const int32_t* rows = op.in == kResidual ? scope.row_indices : nullptr;
  if (lowered.keys) {
    check(
        norm_heads(out.floats, out.stride, scope.rows(), op.groups, lowered.keys->groups, op.width, weights(scope.unit),
                   layout.vectors[op.weight], layout.vectors[lowered.keys->weight], epsilon, scope.stream, true),
        "the norms of heads");
    return;
  }
  const bool whole = op.groups == 1 && op.begin == 0 && op.width == in.width && !op.mean && !op.add;
  if (whole && out.halves != nullptr && op.weight != kNone && op.bias == kNone) {
    check(rms_norm(in.floats, in.stride, weights(scope.unit), layout.vectors[op.weight], epsilon, scope.rows(),
                   op.width, out.halves, out.stride, scope.stream, true, rows),
          "a norm");
    return;
  }
  NormGroups groups;
  groups.x = in.floats + op.begin;
  groups.x_stride = in.stride;
  groups.row_indices = rows;
  groups.rows = scope.rows();
  groups.groups = op.groups;
  groups.width = op.width;
  groups.weights = weights(scope.unit);
  if (op.weight != kNone) groups.weight_offset = static_cast<int64_t>(layout.vectors[op.weight]);
  if (op.bias != kNone) groups.bias_offset = static_cast<int64_t>(layout.vectors[op.bias]);
  groups.epsilon = epsilon;
  groups.mean = op.mean;
  groups.add = op.add;
  if (out.floats != nullptr) groups.y = out.floats + op.begin;
  if (out.halves != nullptr) groups.halves = out.halves + op.begin;
  groups.y_stride = out.stride;
  check(norm_groups(groups, scope.stream, true), "a norm");
}

void CudaExecutor::run_op(const ScaleOp& op, const Lowered&, const Scope& scope) {
  const Operand value = operand(scope, op.value);
  ScaleArguments arguments;
  arguments.x = value.floats + op.begin;
  arguments.stride = value.stride;
  arguments.rows = scope.rows();
  arguments.width = op.width;
  arguments.factor = op.factor;
  arguments.cap = op.cap;
  arguments.weights = weights(scope.unit);
  if (op.weight != kNone) {
    arguments.weight_offset = static_cast<int64_t>(config_.units[scope.unit].vectors[op.weight]);
  }
  if (op.period > 0) {
    arguments.positions = device_inputs_.positions + scope.begin;
    arguments.period = op.period;
    arguments.growth = static_cast<float>(op.growth);
  }
  check(scale(arguments, scope.stream, true), "a scale");
}

void CudaExecutor::run_op(const AddOp& op, const Lowered&, const Scope& scope) {
  const Operand in = operand(scope, op.in), out = operand(scope, op.out);
  check(add_scaled(in.floats, out.floats, static_cast<int64_t>(scope.rows()) * in.width, op.scale, scope.stream, true),
        "a sum");
}

void CudaExecutor::run_op(const LinearOp& op, const Lowered& lowered, const Scope& scope) {
  const Operand out = operand(scope, op.out);
  Output output;
  output.epilogue = op.add ? LinearEpilogue::add : LinearEpilogue::store;
  output.y = out.floats;
  output.y_stride = out.stride;
  apply_to(op.in, config_.units[scope.unit].linears[op.linear], lowered, output, scope);
}

void CudaExecutor::run_op(const GluOp& op, const Lowered& lowered, const Scope& scope) {
  const Operand out = operand(scope, op.out);
  const LinearLayout& layout = config_.units[scope.unit].linears[op.linear];
  Output output;
  output.features = out.width;
  output.act_stride = out.stride;
  if (fused_glu(op, layout) && out.halves != nullptr) {
    output.epilogue = LinearEpilogue::silu_mul;
    output.act = out.halves;
    apply_to(op.in, layout, lowered, output, scope);
    return;
  }
  output.y = gate_up_;
  output.y_stride = layout.n;
  apply_to(op.in, layout, lowered, output, scope);
  check(glu(gate_up_, layout.n, layout.interleaved, scope.rows(), out.width, op.activation, out.halves, out.floats,
            out.stride, scope.stream, true),
        "an activation");
}

void CudaExecutor::run_op(const GateOp& op, const Lowered&, const Scope& scope) {
  const Operand in = operand(scope, op.in), by = operand(scope, op.by), out = operand(scope, op.out);
  GateArguments arguments;
  arguments.x = in.floats + op.in_begin;
  arguments.x_stride = in.stride;
  arguments.scalar = op.scalar;
  if (by.floats != nullptr) arguments.by = by.floats + op.begin;
  if (by.halves != nullptr) arguments.by_halves = by.halves + op.begin;
  arguments.by_stride = by.stride;
  arguments.rows = scope.rows();
  arguments.features = out.width;
  arguments.activation = op.activation;
  arguments.halves = out.halves;
  arguments.floats = out.floats;
  arguments.stride = out.stride;
  check(gate(arguments, scope.stream, true), "a gate");
}

StateArguments CudaExecutor::state_arguments(const StatePlace& place, const Scope& scope) const {
  const size_t bytes = kv_block_bytes(config_.program.kv[place.kv_class]);
  StateArguments arguments;
  arguments.block_tables =
      device_inputs_.block_tables + static_cast<size_t>(place.kv_class) * table_sequences_ * block_table_stride_;
  arguments.block_table_stride = block_table_stride_;
  arguments.states = reinterpret_cast<float*>(config_.kv.at(place.kv_class).layer(place.kv_layer, bytes)) + place.begin;
  arguments.state_stride = static_cast<int64_t>(bytes / sizeof(float));
  arguments.weights = weights(scope.unit);
  return arguments;
}

// Calls body(first row of the scope, state) for launches that have all rows: decode rows, then prompts. Rows of one
// sequence lie side by side.
template <typename Body>
void CudaExecutor::for_runs(const StatePlace& place, const Scope& scope, Body&& body) {
  StateArguments state = state_arguments(place, scope);
  const auto from_row = [&](int row, int count) {
    state.rows = count;
    state.positions = device_inputs_.positions + scope.begin + row;
    state.sequences = device_inputs_.sequences + scope.begin + row;
    body(row, state);
  };
  if (scope.decode_rows > 0) from_row(0, scope.decode_rows);
  if (scope.prefill_rows == 0) return;
  state.runs.decode = false;
  const int first = scope.begin + scope.decode_rows;
  const std::span<const int32_t> sequences = pass_->step.sequences.subspan(first, scope.prefill_rows);
  for (int row = 0; row < scope.prefill_rows;) {
    StateRuns& runs = state.runs;
    runs.count = 0;
    for (; row < scope.prefill_rows && runs.count < StateRuns::kMost; runs.count++) {
      runs.begin[runs.count] = static_cast<uint16_t>(row);
      for (row++; row < scope.prefill_rows && sequences[row] == sequences[row - 1]; row++) {
      }
      runs.end[runs.count] = static_cast<uint16_t>(row);
    }
    from_row(scope.decode_rows, scope.prefill_rows);
  }
}

void CudaExecutor::run_op(const ConvOp& op, const Lowered&, const Scope& scope) {
  const Operand in = operand(scope, op.in), out = operand(scope, op.out);
  for_runs(op.state, scope, [&](int row, const StateArguments& state) {
    ConvArguments arguments;
    arguments.state = state;
    arguments.x = in.floats + static_cast<size_t>(row) * in.stride + op.begin;
    arguments.x_stride = in.stride;
    arguments.out = out.floats + static_cast<size_t>(row) * out.stride;
    arguments.channels = op.channels;
    arguments.taps = op.taps;
    arguments.weight_offset = config_.units[scope.unit].vectors[op.weight];
    check(convolve(arguments, scope.stream, true), "a convolution");
  });
}

void CudaExecutor::run_op(const LatentOp& op, const Lowered&, const Scope& scope) {
  const Operand q = operand(scope, op.q), latent = operand(scope, op.latent), out = operand(scope, op.out);
  const KvClass& kv = config_.program.kv[op.kv_class];
  LatentArguments arguments;
  arguments.shape = {op.heads, op.rank, op.nope, op.rotary, op.value_dim};
  arguments.rope = ropes_[op.rope];
  arguments.interleaved = op.interleaved;
  arguments.block_tables =
      device_inputs_.block_tables + static_cast<size_t>(op.kv_class) * table_sequences_ * block_table_stride_;
  arguments.block_table_stride = block_table_stride_;
  arguments.kv_block_elements = static_cast<int64_t>(kv_block_bytes(kv) / sizeof(__half));
  arguments.kv = reinterpret_cast<__half*>(config_.kv.at(op.kv_class).layer(op.kv_layer, kv_block_bytes(kv)));
  arguments.out_stride = out.stride;
  arguments.scale = op.scale;
  arguments.weights = weights(scope.unit);
  arguments.matrix = config_.units[scope.unit].linears[op.linear].segments.front().matrix;
  arguments.max_context = shape_.context;
  arguments.queries = latent_queries_;
  arguments.partials = attention_partials_;
  const auto from_row = [&](int row, int count, bool decode) {
    if (count == 0) return;
    arguments.rows = count;
    arguments.decode = decode;
    arguments.q = q.floats + static_cast<size_t>(row) * q.stride;
    arguments.latent = latent.floats + static_cast<size_t>(row) * latent.stride;
    arguments.positions = device_inputs_.positions + scope.begin + row;
    arguments.sequences = device_inputs_.sequences + scope.begin + row;
    arguments.out = out.halves + static_cast<size_t>(row) * out.stride;
    check(latent_attention(arguments, scope.stream, true), "latent attention");
    counters_.weight_bytes_read += arguments.matrix.bytes;
  };
  from_row(0, scope.decode_rows, true);
  from_row(scope.decode_rows, scope.prefill_rows, false);
}

void CudaExecutor::run_op(const DeltaOp& op, const Lowered&, const Scope& scope) {
  const Operand in = operand(scope, op.in), gates = operand(scope, op.gates), out = operand(scope, op.out);
  const std::vector<size_t>& vectors = config_.units[scope.unit].vectors;
  for_runs(op.state, scope, [&](int row, const StateArguments& state) {
    DeltaArguments arguments;
    arguments.state = state;
    arguments.x = in.floats + static_cast<size_t>(row) * in.stride;
    arguments.gates = gates.floats + static_cast<size_t>(row) * gates.stride;
    arguments.out = out.floats + static_cast<size_t>(row) * out.stride;
    arguments.key_heads = op.key_heads;
    arguments.value_heads = op.value_heads;
    arguments.key_dim = op.key_dim;
    arguments.value_dim = op.value_dim;
    arguments.in_turn = op.in_turn;
    arguments.rate_offset = vectors[op.rate];
    arguments.bias_offset = vectors[op.bias];
    check(delta_rule(arguments, scope.stream, true), "the delta rule");
  });
}

void CudaExecutor::run_op(const GatherOp& op, const Lowered&, const Scope& scope) {
  const Operand out = operand(scope, op.out);
  check(cuda::embed(tables_[op.table], config_.tables[op.table].type, device_inputs_.tokens + scope.begin, scope.rows(),
                    out.width, out.floats, out.stride, scope.stream, false),
        "embed");
  if (op.scale == 1.0f) return;
  ScaleArguments arguments;
  arguments.x = out.floats;
  arguments.stride = out.stride;
  arguments.rows = scope.rows();
  arguments.width = out.width;
  arguments.factor = op.scale;
  check(scale(arguments, scope.stream, true), "a scale");
}

AttentionArguments CudaExecutor::attention_arguments(const AttendOp& op, int unit) const {
  const KvClass& kv = config_.program.kv[op.kv_class];
  AttentionArguments arguments;
  arguments.heads = op.heads;
  arguments.kv_heads = op.kv_heads;
  arguments.head_dim = op.head_dim;
  arguments.rope = ropes_[op.rope];
  arguments.block_tables =
      device_inputs_.block_tables + static_cast<size_t>(op.kv_class) * table_sequences_ * block_table_stride_;
  arguments.block_table_stride = block_table_stride_;
  arguments.kv_block_elements = static_cast<int64_t>(kv_block_bytes(kv) / sizeof(__half));
  arguments.kv = reinterpret_cast<__half*>(config_.kv.at(op.kv_class).layer(op.kv_layer, kv_block_bytes(kv)));
  arguments.kv_type = kv.type;
  arguments.window = kv.window;
  arguments.scale = op.scale;
  arguments.cap = op.cap;
  arguments.reads_only = op.reads_only;
  if (op.sinks != kNone) {
    arguments.weights = weights(unit);
    arguments.sinks_offset = static_cast<int64_t>(config_.units[unit].vectors[op.sinks]);
  }
  arguments.max_context = shape_.context;
  arguments.partials = attention_partials_;
  arguments.counters = attention_counters_;
  // A step's inputs are on the device before its first kernel, older keys even longer; not those of the step itself.
  arguments.early = !op.reads_only;
  return arguments;
}

void CudaExecutor::run_op(const AttendOp& op, const Lowered& lowered, const Scope& scope) {
  const Operand in = operand(scope, op.qkv), out = operand(scope, op.out);
  AttentionArguments arguments = attention_arguments(op, scope.unit);
  arguments.out_stride = out.stride;
  if (lowered.keys && scope.prefill_rows == 0 && attention_norms_heads(op.head_dim)) {
    const UnitLayout& layout = config_.units[scope.unit];
    arguments.weights = weights(scope.unit);
    arguments.norms = true;
    arguments.query_norm_offset = layout.vectors[lowered.before->weight];
    arguments.key_norm_offset = layout.vectors[lowered.keys->weight];
    arguments.norm_epsilon = static_cast<float>(lowered.before->epsilon);
  } else if (lowered.keys) {
    run_op(*lowered.before, {*lowered.before, {}, lowered.keys}, scope);
  }
  const auto from_row = [&](int row, int count) {
    arguments.rows = count;
    arguments.qkv = in.floats + static_cast<size_t>(row) * in.stride;
    arguments.positions = device_inputs_.positions + scope.begin + row;
    arguments.sequences = device_inputs_.sequences + scope.begin + row;
    arguments.out = out.halves + static_cast<size_t>(row) * arguments.out_stride;
  };
  if (scope.decode_rows > 0) {
    from_row(0, scope.decode_rows);
    check(attention_decode(arguments, scope.stream, true), "attention (decode)");
  }
  if (scope.prefill_rows > 0) {
    from_row(scope.decode_rows, scope.prefill_rows);
    check(attention_prefill(arguments, scope.stream, true), "attention (prefill)");
  }
}

void CudaExecutor::run_hop(const Held& held, cudaStream_t stream) {
  void* rows = nullptr;
  void* state = nullptr;
  check(cudaHostGetDevicePointer(&rows, held.hop.rows, 0), "mapping rows for the CPU");
  check(cudaHostGetDevicePointer(&state, held.hop.state, 0), "mapping rows for the CPU");
  const int width = config_.program.hidden();
  const auto offset = static_cast<uint64_t>(held.number);
  if (held.operation == Operation::send) {
    check(send_rows(float_values_[kResidual], shape_.decode_rows, width, static_cast<float*>(rows),
                    static_cast<HopState*>(state), device_inputs_.hops_before, offset, hop_counter_, stream),
          "sending rows to the CPU");
  } else {
    check(receive_rows(float_values_[kResidual], shape_.decode_rows, width, static_cast<const float*>(rows),
                       static_cast<const HopState*>(state), device_inputs_.hops_before, offset, stream),
          "receiving rows from the CPU");
  }
}

size_t CudaExecutor::matrix_bytes(const LinearLayout& linear) {
  size_t bytes = 0;
  for (const LinearLayout::Segment& segment : linear.segments) bytes += segment.matrix.bytes;
  return bytes;
}

// What a pass reads of a unit: of experts as many as its rows can choose.
size_t CudaExecutor::weight_bytes(int unit) const {
  const Mixture& mixture = mixtures_[unit];
  size_t bytes = 0;
  for (const LinearLayout& linear : config_.units[unit].linears) bytes += matrix_bytes(linear);
  if (mixture.op == nullptr) return bytes;
  const int chosen = std::min(mixture.op->experts, rows() * mixture.top_k);
  return bytes - mixture.expert_bytes * static_cast<size_t>(mixture.op->experts - chosen);
}

void CudaExecutor::run_move(const Held& held, cudaStream_t stream) {
  auto* there = reinterpret_cast<float*>(held.hop.rows);  // one address on every device, where it is host memory too
  const bool over = held.operation == Operation::hand_over;
  for (const int value : carried_) {
    const int width = config_.program.values[value];
    float* here = float_values_[value];
    check(move_rows(over ? here : there, rows(), width, over ? there : here, stream), "moving rows between GPUs");
    there += round_up(static_cast<size_t>(rows()) * width, 4);
  }
}

size_t CudaExecutor::carried_bytes() const {
  size_t floats = 0;
  for (const int value : carried_) {
    floats += round_up(static_cast<size_t>(max_padded_rows_) * config_.program.values[value], 4);
  }
  return floats * sizeof(float);
}

void CudaExecutor::run_sample(cudaStream_t stream) {
  if (shape_.logit_rows == 0) return;
  SampleArguments arguments;
  arguments.logits = float_values_[config_.program.logits];
  arguments.vocab = config_.program.vocab;
  arguments.requests = device_inputs_.requests;
  arguments.count = shape_.logit_rows;
  arguments.tokens = device_tokens_;
  arguments.logprobs = device_logprobs_;
  arguments.inputs = device_inputs_.logits;
  stage_->run(arguments, stream);
}

}  // namespace millrace::cuda
