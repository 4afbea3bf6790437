// Multi-head latent attention on the CPU twin (LatentOp in model/program.h): queries are taken to the latent space,
// attend there to the rows of the cache as one head of keys that are values too, and what they find is taken to values.
// Every row is computed by itself, so prompts and decoding agree bit for bit.
#include <algorithm>
#include <cmath>

#include "backend/cpu/executor.h"
#include "backend/cpu/vector_ops.h"

namespace millrace {

namespace {

// Heads that attend together: they share one widening of a block of the cache. Few, so that one row's heads are work
// for several threads.
constexpr int kMostTogether = 8;

int heads_together(int heads) {
  int together = std::min(heads, kMostTogether);
  while (heads % together != 0) together--;
  return together;
}

// Of neighbours that turn together, the first of each, then the second.
void in_halves(const float* in, int rotary, bool interleaved, float* out) {
  for (int i = 0; i < rotary / 2; i++) {
    out[i] = in[interleaved ? 2 * i : i];
    out[rotary / 2 + i] = in[interleaved ? 2 * i + 1 : rotary / 2 + i];
  }
}

}  // namespace

void CpuExecutor::run_op(const LatentOp& op, const Scope& scope) {
  const VectorOps& ops = vector_ops();
  const int rows = scope.rows, key = op.key_dim(), part = op.nope + op.value_dim;
  const size_t block_bytes = kv_block_bytes(config_.program.kv[op.kv_class]);
  std::byte* kv = config_.kv.at(op.kv_class).layer(op.kv_layer, block_bytes);
  const size_t of_class = step_.block_tables.size() / config_.kv.size();
  const auto tables = step_.block_tables.subspan(of_class * op.kv_class, of_class);
  const auto* rope = reinterpret_cast<const float*>(ropes_[op.rope].data());
  const auto turn = [&](int r) { return rope + static_cast<size_t>(step_.positions[scope.begin + r]) * op.rotary; };

  LatentScratch& scratch = latent_scratch_;
  const LinearLayout& linear = scope.layout->linears[op.linear];
  scratch.weights.resize(static_cast<size_t>(linear.n) * op.rank);
  for (const LinearLayout::Segment& segment : linear.segments) {
    compute_->pool.parallel_for(segment.matrix.n_blocks(), [&](int64_t block, int) {
      const size_t first = static_cast<size_t>(segment.out_begin) + static_cast<size_t>(block) * kTileN;
      decode_row_block(segment.matrix, scope.slab, static_cast<int>(block), scratch.weights.data() + first * op.rank);
    });
    weight_bytes_.fetch_add(segment.matrix.bytes, std::memory_order_relaxed);
  }

  const float* latents = rows_of(scope, op.latent);
  compute_->pool.parallel_for(rows, [&](int64_t index, int) {
    const int r = static_cast<int>(index), position = step_.positions[scope.begin + r];
    const float* in = latents + static_cast<size_t>(r) * key;
    thread_local std::vector<float> row;
    row.assign(in, in + op.rank);
    row.resize(static_cast<size_t>(key));
    in_halves(in + op.rank, op.rotary, op.interleaved, row.data() + op.rank);
    ops.rope(row.data() + op.rank, 1, op.rotary, turn(r));
    const int32_t block = tables[static_cast<size_t>(step_.sequences[scope.begin + r]) * step_.block_table_stride +
                                 position / kKvBlockTokens];
    auto* base = reinterpret_cast<uint16_t*>(kv + block * block_bytes);
    ops.to_half(row.data(), key, base + static_cast<size_t>(position % kKvBlockTokens) * key);
  });

  const size_t all = static_cast<size_t>(rows) * op.heads;
  scratch.queries.resize(all * key);
  scratch.found.resize(all * key);
  const float* q = rows_of(scope, op.q);
  compute_->pool.parallel_for(static_cast<int64_t>(all), [&](int64_t index, int) {
    const int r = static_cast<int>(index / op.heads), head = static_cast<int>(index % op.heads);
    const float* in = q + static_cast<size_t>(index) * (op.nope + op.rotary);
    float* to = scratch.queries.data() + static_cast<size_t>(index) * key;
    const float* up = scratch.weights.data() + static_cast<size_t>(head) * part * op.rank;
    ops.weighted_rows(in, op.nope, up, op.rank, to);
    in_halves(in + op.nope, op.rotary, op.interleaved, to + op.rank);
    ops.rope(to + op.rank, 1, op.rotary, turn(r));
  });

  AttentionCall call;
  call.rows = rows;
  call.heads = op.heads;
  call.kv_heads = op.heads / heads_together(op.heads);
  call.head_dim = key;
  call.latent = true;
  call.window = config_.program.kv[op.kv_class].window;
  call.scale = op.scale > 0 ? op.scale : 1.0 / std::sqrt(static_cast<double>(op.nope + op.rotary));
  call.q = scratch.queries.data();
  call.q_stride = static_cast<int64_t>(op.heads) * key;
  call.out = scratch.found.data();
  call.out_stride = call.q_stride;
  call.positions = step_.positions.subspan(scope.begin);
  call.sequences = step_.sequences.subspan(scope.begin);
  call.block_tables = tables;
  call.block_table_stride = step_.block_table_stride;
  call.kv = kv;
  call.block_bytes = block_bytes;
  millrace::attention(call, compute_->pool, attention_scratch_);

  float* out = rows_of(scope, op.out);
  compute_->pool.parallel_for(static_cast<int64_t>(all), [&](int64_t index, int) {
    const int head = static_cast<int>(index % op.heads);
    const float* found = scratch.found.data() + static_cast<size_t>(index) * key;
    const float* up = scratch.weights.data() + (static_cast<size_t>(head) * part + op.nope) * op.rank;
    float* to = out + static_cast<size_t>(index) * op.value_dim;
    for (int v = 0; v < op.value_dim; v++) to[v] = ops.dot(up + static_cast<size_t>(v) * op.rank, found, op.rank);
  });
}

}  // namespace millrace
