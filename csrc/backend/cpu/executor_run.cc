// The operations of a pass on the CPU twin.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "backend/cpu/executor.h"
#include "backend/cpu/kv_append.h"
#include "backend/cpu/vector_ops.h"
#include "core/error.h"

namespace millrace {

namespace {

// Rows are handed to threads by several: a row of norm or rope takes about a microsecond.
constexpr int kRowsTogether = 4;

template <typename Body>
void for_rows(ThreadPool& pool, int rows, Body&& body) {
  pool.parallel_for((rows + kRowsTogether - 1) / kRowsTogether, [&](int64_t index, int) {
    const int begin = static_cast<int>(index) * kRowsTogether;
    for (int r = begin; r < std::min(rows, begin + kRowsTogether); r++) body(r);
  });
}

float activate(Activation activation, float x) {
  switch (activation) {
    case Activation::silu:
      return x / (1.0f + std::exp(-x));
    case Activation::sigmoid:
      return 1.0f / (1.0f + std::exp(-x));
    case Activation::gelu:
      return 0.5f * x * (1.0f + std::erf(x * 0.70710678118654752f));
    case Activation::gelu_tanh:
      return 0.5f * x * (1.0f + std::tanh(0.79788456080286536f * (x + 0.044715f * x * x * x)));
    case Activation::clamped_swiglu:  // of experts alone
      break;
  }
  return x;
}

// (x - mean) / sqrt(variance + epsilon) * weight, sums in float64 in ascending order.
void layer_norm(const float* x, const float* weight, int width, double epsilon, float* out) {
  double sum = 0, squares = 0;
  for (int i = 0; i < width; i++) sum += x[i];
  const double mean = sum / width;
  for (int i = 0; i < width; i++) squares += (x[i] - mean) * (x[i] - mean);
  const double inverse = 1.0 / std::sqrt(squares / width + epsilon);
  for (int i = 0; i < width; i++) out[i] = static_cast<float>((x[i] - mean) * inverse) * weight[i];
}

}  // namespace

float* CpuExecutor::rows_of(const Scope& scope, int value) const {
  return values_[value] + static_cast<size_t>(scope.begin) * width(value);
}

const float* CpuExecutor::vector(const Scope& scope, int index) const {
  return index == kNone ? nullptr : reinterpret_cast<const float*>(scope.slab + scope.layout->vectors[index]);
}

void CpuExecutor::run_unit(int unit, RowKind kind) {
  Scope scope{&config_.units[unit], slab(unit), 0, 0, unit};
  if (config_.program.units[unit].head) {
    scope.rows = gather_logit_rows();
  } else {
    scope.begin = kind == RowKind::prefill ? step_.decode_rows : 0;
    scope.rows = (kind == RowKind::decode ? step_.decode_rows : step_.rows) - scope.begin;
  }
  if (scope.rows > 0) run_ops(config_.program.units[unit].ops, scope);
}

void CpuExecutor::run_ops(const std::vector<Op>& ops, const Scope& scope) {
  for (const Op& op : ops) {
    std::visit([&](const auto& one) { run_op(one, scope); }, op);
  }
}

int CpuExecutor::gather_logit_rows() {
  const size_t hidden = config_.program.hidden();
  float* residual = values_[kResidual];
  logit_row_.clear();
  int rows = 0;
  int32_t last = -1;
  for (const LogitRequest& request : step_.logits) {
    if (request.row != last) {
      // Rows move down in place: a request's row is never before its place.
      std::memmove(residual + rows * hidden, residual + request.row * hidden, hidden * sizeof(float));
      rows++;
      last = request.row;
    }
    logit_row_.push_back(rows - 1);
  }
  return rows;
}

void CpuExecutor::run_op(const NormOp& op, const Scope& scope) {
  const VectorOps& ops = vector_ops();
  const float* weight = vector(scope, op.weight);
  const float* bias = vector(scope, op.bias);
  const std::vector<float> ones(weight == nullptr ? op.width : 0, 1.0f);
  if (weight == nullptr) weight = ones.data();
  const float* in = rows_of(scope, op.in);
  float* out = rows_of(scope, op.out);
  for_rows(compute_->pool, scope.rows, [&](int r) {
    thread_local std::vector<float> normed;
    if (op.add) normed.resize(op.width);
    for (int g = 0; g < op.groups; g++) {
      const size_t column = static_cast<size_t>(op.begin) + static_cast<size_t>(g) * op.width;
      const float* x = in + static_cast<size_t>(r) * width(op.in) + column;
      float* y = out + static_cast<size_t>(r) * width(op.out) + column;
      float* to = op.add ? normed.data() : y;
      if (op.mean) {
        layer_norm(x, weight, op.width, op.epsilon, to);
      } else {
        ops.rms_norm(x, weight, op.width, op.epsilon, to);
      }
      for (int i = 0; bias != nullptr && i < op.width; i++) to[i] += bias[i];
      for (int i = 0; op.add && i < op.width; i++) y[i] += to[i];
    }
  });
}

void CpuExecutor::run_op(const ScaleOp& op, const Scope& scope) {
  const float* weight = vector(scope, op.weight);
  const float base = op.factor * (weight == nullptr ? 1.0f : weight[0]);
  float* value = rows_of(scope, op.value);
  for_rows(compute_->pool, scope.rows, [&](int r) {
    float* x = value + static_cast<size_t>(r) * width(op.value) + op.begin;
    float factor = base;
    if (op.period > 0) {
      const double turns = std::floor(static_cast<double>(step_.positions[scope.begin + r]) / op.period);
      factor *= static_cast<float>(1.0 + op.growth * std::log1p(turns));
    }
    for (int i = 0; factor != 1.0f && i < op.width; i++) x[i] *= factor;
    for (int i = 0; op.cap > 0 && i < op.width; i++) x[i] = op.cap * std::tanh(x[i] / op.cap);
  });
}

void CpuExecutor::run_op(const AddOp& op, const Scope& scope) {
  const float* in = rows_of(scope, op.in);
  float* out = rows_of(scope, op.out);
  const size_t columns = width(op.in);
  for_rows(compute_->pool, scope.rows, [&](int r) {
    for (size_t i = r * columns; i < (r + 1) * columns; i++) out[i] += op.scale * in[i];
  });
}

void CpuExecutor::run_op(const LinearOp& op, const Scope& scope) {
  LinearCall call;
  call.layout = &scope.layout->linears[op.linear];
  call.slab = scope.slab;
  call.x = rows_of(scope, op.in);
  call.x_stride = width(op.in);
  call.rows = scope.rows;
  call.y = rows_of(scope, op.out);
  call.y_stride = width(op.out);
  call.epilogue = op.add ? Epilogue::add : Epilogue::store;
  linear(call, compute_->pool, linear_scratch_, weight_bytes_);
}

void CpuExecutor::run_op(const GluOp& op, const Scope& scope) {
  const LinearLayout& layout = scope.layout->linears[op.linear];
  const int features = width(op.out);
  LinearCall call;
  call.layout = &layout;
  call.slab = scope.slab;
  call.x = rows_of(scope, op.in);
  call.x_stride = width(op.in);
  call.rows = scope.rows;
  call.y = rows_of(scope, op.out);
  call.y_stride = features;
  call.epilogue = Epilogue::silu_mul;
  call.interleaved = layout.interleaved;
  call.intermediate = features;
  if (op.activation == Activation::silu) {
    linear(call, compute_->pool, linear_scratch_, weight_bytes_);
    return;
  }
  gate_up_.resize(std::max(gate_up_.size(), static_cast<size_t>(scope.rows) * layout.n));
  float* out = call.y;
  call.y = gate_up_.data();
  call.y_stride = layout.n;
  call.epilogue = Epilogue::store;
  linear(call, compute_->pool, linear_scratch_, weight_bytes_);
  for_rows(compute_->pool, scope.rows, [&](int r) {
    const float* row = gate_up_.data() + static_cast<size_t>(r) * layout.n;
    float* to = out + static_cast<size_t>(r) * features;
    for (int i = 0; i < features; i++) {
      const int gate = layout.interleaved ? i / 8 * 16 + i % 8 : i;
      const int up = layout.interleaved ? gate + 8 : features + i;
      to[i] = activate(op.activation, row[gate]) * row[up];
    }
  });
}

void CpuExecutor::run_op(const GateOp& op, const Scope& scope) {
  const float* in = rows_of(scope, op.in) + op.in_begin;
  const float* by = rows_of(scope, op.by) + op.begin;
  float* out = rows_of(scope, op.out);
  const size_t columns = width(op.out);
  for_rows(compute_->pool, scope.rows, [&](int r) {
    const float* x = in + static_cast<size_t>(r) * width(op.in);
    const float* factor = by + static_cast<size_t>(r) * width(op.by);
    if (op.scalar) {
      const float gate = activate(op.activation, *x);
      for (size_t i = 0; i < columns; i++) out[r * columns + i] = gate * factor[i];
      return;
    }
    for (size_t i = 0; i < columns; i++) out[r * columns + i] = activate(op.activation, x[i]) * factor[i];
  });
}

void CpuExecutor::run_op(const GatherOp& op, const Scope& scope) {
  const int columns = width(op.out);
  const EmbeddingTable& table = config_.tables[op.table];
  const VectorOps& ops = vector_ops();
  const size_t row_bytes = columns * element_bytes(table.type);
  float* out = rows_of(scope, op.out);
  for_rows(compute_->pool, scope.rows, [&](int r) {
    const std::byte* source = table.rows + tokens_[scope.begin + r] * row_bytes;
    float* destination = out + static_cast<size_t>(r) * columns;
    if (table.type == WeightType::f32) {
      std::memcpy(destination, source, row_bytes);
    } else if (table.type == WeightType::f16) {
      ops.from_half(reinterpret_cast<const uint16_t*>(source), columns, destination);
    } else {
      ops.from_bfloat16(reinterpret_cast<const uint16_t*>(source), columns, destination);
    }
    for (int i = 0; op.scale != 1.0f && i < columns; i++) destination[i] *= op.scale;
  });
}

void CpuExecutor::run_op(const AttendOp& op, const Scope& scope) {
  const VectorOps& ops = vector_ops();
  const KvClass& kv_class = config_.program.kv[op.kv_class];
  const KvMemory& memory = config_.kv.at(op.kv_class);
  const size_t qkv = width(op.qkv);
  const size_t block_bytes = kv_block_bytes(kv_class);
  std::byte* kv = memory.layer(op.kv_layer, block_bytes);
  const auto* rope = reinterpret_cast<const float*>(ropes_[op.rope].data());
  const int64_t classes = static_cast<int64_t>(config_.kv.size());
  const auto tables = step_.block_tables.subspan(step_.block_tables.size() / classes * op.kv_class,
                                                 step_.block_tables.size() / classes);
  float* rows = rows_of(scope, op.qkv);
  for_rows(compute_->pool, scope.rows, [&](int r) {
    float* q = rows + r * qkv;
    const int position = step_.positions[scope.begin + r];
    // Query and key heads lie side by side.
    ops.rope(q, op.heads + (op.reads_only ? 0 : op.kv_heads), op.head_dim,
             rope + static_cast<size_t>(position) * op.head_dim);
    if (op.reads_only) return;
    const float* k = q + op.query_width();
    const float* v = k + op.kv_width();
    const int32_t block = tables[static_cast<size_t>(step_.sequences[scope.begin + r]) * step_.block_table_stride +
                                 position / kKvBlockTokens];
    append_kv(k, v, {kv_class.type, op.kv_heads, op.head_dim}, position, kv + block * block_bytes);
  });

  AttentionCall call;
  call.rows = scope.rows;
  call.heads = op.heads;
  call.kv_heads = op.kv_heads;
  call.head_dim = op.head_dim;
  call.window = kv_class.window;
  call.scale = op.scale;
  call.cap = op.cap;
  call.sinks = vector(scope, op.sinks);
  call.q = rows;
  call.q_stride = static_cast<int64_t>(qkv);
  call.out = rows_of(scope, op.out);
  call.out_stride = width(op.out);
  call.positions = step_.positions.subspan(scope.begin);
  call.sequences = step_.sequences.subspan(scope.begin);
  call.block_tables = tables;
  call.block_table_stride = step_.block_table_stride;
  call.type = kv_class.type;
  call.kv = kv;
  call.block_bytes = block_bytes;
  millrace::attention(call, compute_->pool, attention_scratch_);
}

}  // namespace millrace
