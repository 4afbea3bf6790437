// What keeps a state in the place of keys and values, on the CPU twin: a causal convolution, and the gated delta rule.
// Rows of a sequence are computed one after the other, whatever the pass: so the bits of a prompt are those of
// decoding. Of rows that decode, the second on are drafts: what is behind each is kept apart (Step).
#include <algorithm>
#include <cmath>
#include <utility>

#include "backend/cpu/executor.h"
#include "backend/cpu/vector_ops.h"

namespace millrace {

namespace {

// Columns of a convolution that a thread takes at once.
constexpr int kColumnsTogether = 1024;

// log(1 + e^x), as x itself where they are the same.
double softplus(double x) {
  return x > 30 ? x : std::log1p(std::exp(x));
}

}  // namespace

std::vector<CpuExecutor::Run> CpuExecutor::runs_of(const StatePlace& place, const Scope& scope) const {
  const size_t bytes = kv_block_bytes(config_.program.kv[place.kv_class]);
  std::byte* states = config_.kv.at(place.kv_class).layer(place.kv_layer, bytes);
  const size_t of_class = step_.block_tables.size() / config_.kv.size();
  const auto tables = step_.block_tables.subspan(of_class * place.kv_class, of_class);
  std::vector<Run> runs;
  for (int r = 0; r < scope.rows; r++) {
    const int32_t sequence = step_.sequences[scope.begin + r];
    const int32_t* table = tables.data() + static_cast<size_t>(sequence) * step_.block_table_stride;
    const auto state = [&](int32_t block) { return reinterpret_cast<float*>(states + block * bytes) + place.begin; };
    if (r == 0 || sequence != step_.sequences[scope.begin + r - 1]) {
      runs.push_back({r, r + 1, state(table[0]), {}, step_.positions[scope.begin + r] == 0});
    }
    Run& run = runs.back();
    run.end = r + 1;
    if (scope.begin + r < step_.decode_rows) run.behind.push_back(state(table[r - run.begin]));
  }
  return runs;
}

void CpuExecutor::run_op(const ConvOp& op, const Scope& scope) {
  const float* in = rows_of(scope, op.in) + op.begin;
  float* out = rows_of(scope, op.out);
  const float* weight = vector(scope, op.weight);
  const int before = op.taps - 1;
  const std::vector<Run> runs = runs_of(op.state, scope);
  const int pieces = (op.channels + kColumnsTogether - 1) / kColumnsTogether;
  compute_->pool.parallel_for(static_cast<int64_t>(runs.size()) * pieces, [&](int64_t index, int) {
    const Run& run = runs[index / pieces];
    const int begin = static_cast<int>(index % pieces) * kColumnsTogether;
    const int end = std::min(op.channels, begin + kColumnsTogether);
    for (int c = begin; c < end; c++) {
      float seen[16] = {};  // the last rows, the oldest first, then the row itself
      for (int t = 0; t < before && !run.fresh; t++) seen[t] = run.state[static_cast<size_t>(t) * op.channels + c];
      const float* own = weight + static_cast<size_t>(c) * op.taps;
      for (int r = run.begin; r < run.end; r++) {
        seen[before] = in[static_cast<size_t>(r) * width(op.in) + c];
        float sum = own[0] * seen[0];
        for (int t = 1; t <= before; t++) sum += own[t] * seen[t];
        out[static_cast<size_t>(r) * op.channels + c] = sum / (1.0f + std::exp(-sum));
        for (int t = 0; t < before; t++) seen[t] = seen[t + 1];
        if (run.behind.empty() && r + 1 < run.end) continue;
        float* left = run.behind.empty() ? run.state : run.behind[r - run.begin];
        for (int t = 0; t < before; t++) left[static_cast<size_t>(t) * op.channels + c] = seen[t];
      }
    }
  });
}

void CpuExecutor::run_op(const DeltaOp& op, const Scope& scope) {
  const VectorOps& ops = vector_ops();
  const float* in = rows_of(scope, op.in);
  const float* gates = rows_of(scope, op.gates);
  float* out = rows_of(scope, op.out);
  const float* rate = vector(scope, op.rate);
  const float* bias = vector(scope, op.bias);
  const std::vector<Run> runs = runs_of(op.state, scope);
  const int heads = op.value_heads;
  const size_t matrix = static_cast<size_t>(op.key_dim) * op.value_dim;
  compute_->pool.parallel_for(static_cast<int64_t>(runs.size()) * heads, [&](int64_t index, int) {
    const Run& run = runs[index / heads];
    const int head = static_cast<int>(index % heads), key_head = op.key_head(head);
    float* state = run.state + head * matrix;
    if (run.fresh) std::fill(state, state + matrix, 0.0f);
    thread_local std::vector<float> normed;
    normed.resize(static_cast<size_t>(2) * op.key_dim);
    for (int r = run.begin; r < run.end; r++) {
      if (r > run.begin && !run.behind.empty()) {
        const float* last = std::exchange(state, run.behind[r - run.begin] + head * matrix);
        std::copy(last, last + matrix, state);
      }
      const float* row = in + static_cast<size_t>(r) * width(op.in);
      const float* gate = gates + static_cast<size_t>(r) * width(op.gates);
      DeltaRow step;
      ops.unit_length(row + key_head * op.key_dim, op.key_dim, 1.0 / std::sqrt(op.key_dim), normed.data());
      ops.unit_length(row + op.key_width() + key_head * op.key_dim, op.key_dim, 1.0, normed.data() + op.key_dim);
      step.q = normed.data();
      step.k = normed.data() + op.key_dim;
      step.v = row + 2 * op.key_width() + head * op.value_dim;
      step.decay =
          static_cast<float>(std::exp(-rate[head] * softplus(static_cast<double>(gate[heads + head]) + bias[head])));
      step.beta = static_cast<float>(1.0 / (1.0 + std::exp(-static_cast<double>(gate[head]))));
      step.out = out + static_cast<size_t>(r) * width(op.out) + head * op.value_dim;
      ops.delta_rule(step, op.key_dim, op.value_dim, state);
    }
  });
}

}  // namespace millrace
