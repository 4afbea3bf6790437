#include "backend/cpu/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/attention_kernels.h"
#include "backend/cpu/linear.h"

namespace millrace {

namespace {

static_assert(kAttentionBlock == kKvBlockTokens);

// Queries that share one widening of a block: enough to hide it, few enough for the second-level cache.
constexpr int kTaskQueries = 32;

const AttentionKernels& kernels() {
#if defined(__x86_64__)
  const char* name = selected_kernels();
  if (std::strncmp(name, "avx512", 6) == 0) return attention_kernels_avx512;
  if (std::strncmp(name, "avx2", 4) == 0) return attention_kernels_avx2;
#endif
  return attention_kernels_plain;
}

// Consecutive rows of one sequence.
struct RowTile {
  int begin = 0;
  int rows = 0;
  int positions = 0;   // one more than the last position that any of them sees
  int begin_span = 0;  // first span of positions that any of them sees anything of
};

constexpr double kLog2e = 1.4426950408889634;

double query_scale_of(const AttentionCall& call) {
  const double root = std::sqrt(static_cast<double>(call.head_dim));
  if (call.cap > 0) return (call.scale > 0 ? call.scale : 1.0 / root) / call.cap;
  return call.scale > 0 ? kLog2e * call.scale : kLog2e / root;
}

int spans_of(int positions) {
  return (positions + kAttentionSpan - 1) / kAttentionSpan;
}

}  // namespace

struct AttentionScratch::Data {
  // Of one thread.
  struct Worker {
    std::vector<float> queries, block, scores, maximum, sum, values;
    std::vector<float> folded_maximum, folded_sum, folded_values;
    std::vector<int> first, visible;
  };
  std::vector<Worker> workers;
  std::vector<RowTile> tiles;
  std::vector<int> tile_spans;  // first span of each tile among all
  std::vector<float> partial_maximum, partial_sum, partial_values;
};

AttentionScratch::AttentionScratch() : data_(std::make_unique<Data>()) {}
AttentionScratch::~AttentionScratch() = default;

namespace {

using Data = AttentionScratch::Data;

class Attention {
 public:
  Attention(const AttentionCall& call, Data& data)
      : call_(call),
        data_(data),
        kernels_(kernels()),
        group_(call.heads / call.kv_heads),
        padded_dim_((call.head_dim + kAttentionLanes - 1) / kAttentionLanes * kAttentionLanes),
        query_scale_(static_cast<float>(query_scale_of(call))),
        cap_(static_cast<float>(kLog2e * call.cap)) {}

  void run(ThreadPool& pool) {
    data_.workers.resize(std::max<size_t>(data_.workers.size(), pool.threads()));
    cut_tiles();
    const int64_t tasks = static_cast<int64_t>(data_.tiles.size()) * call_.kv_heads;
    const int spans = data_.tile_spans.back();
    // Few long rows: spread their spans too. The bits are the same either way.
    if (tasks < 2 * pool.threads() && spans > static_cast<int>(data_.tiles.size()) && pool.threads() > 1) {
      run_split(pool, spans);
      return;
    }
    pool.parallel_for(tasks, [&](int64_t task, int thread) {
      // Long tiles first: prefill rows that come later see more.
      const RowTile& tile = data_.tiles[data_.tiles.size() - 1 - task / call_.kv_heads];
      attend_tile(tile, static_cast<int>(task % call_.kv_heads), data_.workers[thread]);
    });
  }

 private:
  void cut_tiles() {
    const int most = std::max(1, kTaskQueries / group_);
    data_.tiles.clear();
    for (int r = 0; r < call_.rows; r++) {
      const int positions = call_.positions[r] + 1;
      if (data_.tiles.empty() || data_.tiles.back().rows == most || call_.sequences[r] != call_.sequences[r - 1]) {
        data_.tiles.push_back({r, 1, positions, first_span(r)});
      } else {
        RowTile& tile = data_.tiles.back();
        tile.rows++;
        tile.positions = std::max(tile.positions, positions);
        tile.begin_span = std::min(tile.begin_span, first_span(r));
      }
    }
    data_.tile_spans.assign(1, 0);
    for (const RowTile& tile : data_.tiles) {
      data_.tile_spans.push_back(data_.tile_spans.back() + spans_of(tile.positions) - tile.begin_span);
    }
  }

  int first_position(int row) const {
    return call_.window == 0 ? 0 : std::max(0, call_.positions[row] + 1 - call_.window);
  }
  int first_span(int row) const { return first_position(row) / kAttentionSpan; }
  bool sees(int row, int span) const {
    return call_.positions[row] >= span * kAttentionSpan && first_span(row) <= span;
  }

  // Scaled queries of the rows that see anything of the span; returns how many rows those are.
  int prepare(const RowTile& tile, int kv_head, int span, Data::Worker& worker, AttentionSpan& task) const {
    worker.first.resize(tile.rows);
    worker.visible.resize(tile.rows);
    const size_t queries = static_cast<size_t>(tile.rows) * group_;
    worker.queries.resize(queries * padded_dim_);
    worker.block.resize(static_cast<size_t>(kKvBlockTokens) * padded_dim_);
    worker.scores.resize(queries * kAttentionSpan);
    worker.maximum.resize(queries);
    worker.sum.resize(queries);
    worker.values.resize(queries * padded_dim_);
    int rows = 0;
    task.positions = 0;
    task.begin = kAttentionSpan;
    for (int r = 0; r < tile.rows; r++) {
      if (!sees(tile.begin + r, span)) continue;
      const int begin = span * kAttentionSpan;
      const int first = std::max(0, first_position(tile.begin + r) - begin);
      const int visible = std::min(kAttentionSpan, call_.positions[tile.begin + r] + 1 - begin);
      worker.first[rows] = first;
      worker.visible[rows] = visible;
      task.begin = std::min(task.begin, first / kKvBlockTokens * kKvBlockTokens);
      task.positions = std::max(task.positions, visible);
      const float* source = call_.q + (tile.begin + r) * call_.q_stride + kv_head * group_ * call_.head_dim;
      float* destination = worker.queries.data() + static_cast<size_t>(rows) * group_ * padded_dim_;
      for (int g = 0; g < group_; g++, source += call_.head_dim, destination += padded_dim_) {
        for (int d = 0; d < call_.head_dim; d++) destination[d] = source[d] * query_scale_;
        for (int d = call_.head_dim; d < padded_dim_; d++) destination[d] = 0.0f;
      }
      rows++;
    }
    task.rows = rows;
    task.group = group_;
    task.head_dim = call_.head_dim;
    task.padded_dim = padded_dim_;
    task.type = call_.type;
    task.cap = cap_;
    task.queries = worker.queries.data();
    task.first = worker.first.data();
    task.visible = worker.visible.data();
    task.block = worker.block.data();
    task.scores = worker.scores.data();
    task.maximum = worker.maximum.data();
    task.sum = worker.sum.data();
    task.values_out = worker.values.data();
    const int32_t* table = call_.block_tables.data() +
                           static_cast<size_t>(call_.sequences[tile.begin]) * call_.block_table_stride +
                           span * kAttentionSpanBlocks;
    const size_t part = kv_part_bytes(call_.type, call_.head_dim);
    for (int b = 0; b * kKvBlockTokens < task.positions; b++) {
      const std::byte* block = call_.kv + table[b] * call_.block_bytes;
      task.keys[b] = call_.latent ? block : block + kv_head * part;
      task.values[b] = call_.latent ? block : block + (call_.kv_heads + kv_head) * part;
    }
    return rows;
  }

  void write(int row, int head, float maximum, float sum, const float* values) const {
    float inverse = 1.0f / sum;
    if (call_.sinks != nullptr) {
      // Scores are in powers of two. The sink has no value: it only shares in the sum.
      const double sink = kLog2e * call_.sinks[head], most = std::max<double>(maximum, sink);
      const double share = std::exp2(maximum - most);
      inverse = static_cast<float>(share / (sum * share + std::exp2(sink - most)));
    }
    float* out = call_.out + row * call_.out_stride + static_cast<int64_t>(head) * call_.head_dim;
    for (int d = 0; d < call_.head_dim; d++) out[d] = values[d] * inverse;
  }

  // All spans of a tile for one key head, in order.
  void attend_tile(const RowTile& tile, int kv_head, Data::Worker& worker) const {
    const size_t queries = static_cast<size_t>(tile.rows) * group_;
    worker.folded_maximum.resize(queries);
    worker.folded_sum.resize(queries);
    worker.folded_values.resize(queries * padded_dim_);
    AttentionSpan task;
    for (int span = tile.begin_span; span < spans_of(tile.positions); span++) {
      prepare(tile, kv_head, span, worker, task);
      kernels_.span(task);
      int used = 0;  // row of the task
      for (int r = 0; r < tile.rows; r++) {
        if (!sees(tile.begin + r, span)) continue;
        for (int g = 0; g < group_; g++) {
          const size_t from = static_cast<size_t>(used) * group_ + g;
          const size_t to = static_cast<size_t>(r) * group_ + g;
          fold({&worker.folded_maximum[to], &worker.folded_sum[to], &worker.folded_values[to * padded_dim_]},
               {&worker.maximum[from], &worker.sum[from], &worker.values[from * padded_dim_]},
               span == first_span(tile.begin + r));
        }
        used++;
      }
    }
    for (int r = 0; r < tile.rows; r++) {
      for (int g = 0; g < group_; g++) {
        const size_t q = static_cast<size_t>(r) * group_ + g;
        write(tile.begin + r, kv_head * group_ + g, worker.folded_maximum[q], worker.folded_sum[q],
              &worker.folded_values[q * padded_dim_]);
      }
    }
  }

  void fold(const AttentionPartial& into, const AttentionPartial& next, bool first) const {
    if (first) {
      *into.maximum = *next.maximum;
      *into.sum = *next.sum;
      std::memcpy(into.values, next.values, padded_dim_ * sizeof(float));
    } else {
      kernels_.fold(into, next, padded_dim_);
    }
  }

  // Spans of all tiles side by side, then one fold a row. Partials are [spans, rows of the tile, heads].
  void run_split(ThreadPool& pool, int spans) {
    int rows = 0;
    for (const RowTile& tile : data_.tiles) rows = std::max(rows, tile.rows);
    const size_t most = static_cast<size_t>(rows) * call_.heads;
    data_.partial_maximum.resize(std::max(data_.partial_maximum.size(), spans * most));
    data_.partial_sum.resize(std::max(data_.partial_sum.size(), spans * most));
    data_.partial_values.resize(std::max(data_.partial_values.size(), spans * most * padded_dim_));
    pool.parallel_for(static_cast<int64_t>(spans) * call_.kv_heads, [&](int64_t index, int thread) {
      const int span_of_all = static_cast<int>(index / call_.kv_heads);
      const int kv_head = static_cast<int>(index % call_.kv_heads);
      const size_t t = std::upper_bound(data_.tile_spans.begin(), data_.tile_spans.end(), span_of_all) -
                       data_.tile_spans.begin() - 1;
      const RowTile& tile = data_.tiles[t];
      const int span = tile.begin_span + span_of_all - data_.tile_spans[t];
      Data::Worker& worker = data_.workers[thread];
      AttentionSpan task;
      prepare(tile, kv_head, span, worker, task);
      kernels_.span(task);
      int used = 0;
      for (int r = 0; r < tile.rows; r++) {
        if (!sees(tile.begin + r, span)) continue;
        for (int g = 0; g < group_; g++) {
          const size_t from = static_cast<size_t>(used) * group_ + g;
          const size_t to = span_of_all * most + static_cast<size_t>(r) * call_.heads + kv_head * group_ + g;
          fold(partial(to), {&worker.maximum[from], &worker.sum[from], &worker.values[from * padded_dim_]}, true);
        }
        used++;
      }
    });
    pool.parallel_for(static_cast<int64_t>(data_.tiles.size()) * call_.heads, [&](int64_t index, int) {
      const size_t t = static_cast<size_t>(index / call_.heads);
      const int head = static_cast<int>(index % call_.heads);
      const RowTile& tile = data_.tiles[t];
      for (int r = 0; r < tile.rows; r++) {
        const size_t slot = static_cast<size_t>(r) * call_.heads + head;
        const int begin = first_span(tile.begin + r);
        const size_t first = (data_.tile_spans[t] + begin - tile.begin_span) * most + slot;
        const int own = spans_of(call_.positions[tile.begin + r] + 1) - begin;
        for (int span = 1; span < own; span++) fold(partial(first), partial(first + span * most), false);
        write(tile.begin + r, head, data_.partial_maximum[first], data_.partial_sum[first],
              &data_.partial_values[first * padded_dim_]);
      }
    });
  }

  AttentionPartial partial(size_t index) const {
    return {&data_.partial_maximum[index], &data_.partial_sum[index], &data_.partial_values[index * padded_dim_]};
  }

  const AttentionCall& call_;
  Data& data_;
  const AttentionKernels& kernels_;
  const int group_;
  const int padded_dim_;
  const float query_scale_;
  const float cap_;
};

}  // namespace

void attention(const AttentionCall& call, ThreadPool& pool, AttentionScratch& scratch) {
  if (call.rows == 0) return;
  Attention(call, scratch.data()).run(pool);
}

}  // namespace millrace
