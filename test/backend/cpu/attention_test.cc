// Attention over the paged cache against float64, in every instruction set, and its bit promises.
#include "backend/cpu/attention.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/linear.h"
#include "check.h"
#include "core/half.h"
#include "dense.h"

using namespace millrace;

namespace {

constexpr uint16_t kHalfNan = 0x7e00;

// A cache of several sequences whose blocks are scattered; positions never written hold NaN.
struct Cache {
  DenseSpec spec;
  int stride = 0;  // blocks of a sequence
  std::vector<uint16_t> kv;
  std::vector<int32_t> tables;
  std::vector<int> lengths;

  Cache(int heads, int kv_heads, int head_dim, std::vector<int> sequence_lengths) : lengths(sequence_lengths) {
    spec.heads = heads;
    spec.kv_heads = kv_heads;
    spec.head_dim = head_dim;
    stride = (*std::max_element(lengths.begin(), lengths.end()) + kKvBlockTokens - 1) / kKvBlockTokens;
    tables.resize(stride * lengths.size());
    std::iota(tables.begin(), tables.end(), 0);
    std::mt19937_64 random = check::random(3);
    std::shuffle(tables.begin(), tables.end(), random);
    kv.assign(kv_block_bytes(spec) / 2 * tables.size(), kHalfNan);
    std::normal_distribution<float> normal(0, 1);
    for (size_t s = 0; s < lengths.size(); s++) {
      for (int p = 0; p < lengths[s]; p++) {
        for (int h = 0; h < 2 * kv_heads; h++) {
          for (int d = 0; d < head_dim; d++) *at(s, p, h, d) = float_to_half(normal(random));
        }
      }
    }
  }

  // head in [0, kv_heads): key; then value
  uint16_t* at(size_t sequence, int position, int head, int d) {
    const size_t block = tables[sequence * stride + position / kKvBlockTokens];
    return &kv[block * (kv_block_bytes(spec) / 2) +
               (static_cast<size_t>(head) * kKvBlockTokens + position % kKvBlockTokens) * spec.head_dim + d];
  }
};

struct Rows {
  std::vector<int32_t> sequences, positions;
};

// The query of a position of a sequence, whatever the step it is in.
std::vector<float> query_of(const DenseSpec& spec, int sequence, int position) {
  std::mt19937_64 random = check::random(1000 * sequence + position + 7);
  std::normal_distribution<float> normal(0, 2);
  std::vector<float> q(spec.query_width());
  for (float& x : q) x = normal(random);
  return q;
}

std::vector<std::vector<float>> run(Cache& cache, const Rows& rows, ThreadPool& pool) {
  const DenseSpec& spec = cache.spec;
  const size_t q_stride = spec.query_width() + 5, out_stride = spec.query_width() + 3;
  std::vector<float> q(rows.positions.size() * q_stride), out(rows.positions.size() * out_stride, -7.0f);
  for (size_t r = 0; r < rows.positions.size(); r++) {
    const std::vector<float> row = query_of(spec, rows.sequences[r], rows.positions[r]);
    std::copy(row.begin(), row.end(), q.begin() + r * q_stride);
  }
  AttentionCall call;
  call.rows = static_cast<int>(rows.positions.size());
  call.heads = spec.heads;
  call.kv_heads = spec.kv_heads;
  call.head_dim = spec.head_dim;
  call.window = spec.sliding_window;
  call.q = q.data();
  call.q_stride = static_cast<int64_t>(q_stride);
  call.out = out.data();
  call.out_stride = static_cast<int64_t>(out_stride);
  call.positions = rows.positions;
  call.sequences = rows.sequences;
  call.block_tables = cache.tables;
  call.block_table_stride = cache.stride;
  call.kv = reinterpret_cast<const std::byte*>(cache.kv.data());
  call.block_bytes = kv_block_bytes(spec);
  AttentionScratch scratch;
  attention(call, pool, scratch);
  std::vector<std::vector<float>> result;
  for (size_t r = 0; r < rows.positions.size(); r++) {
    const auto row = out.begin() + r * out_stride;
    result.emplace_back(row, row + spec.query_width());
    for (int i = 0; i < 3; i++) CHECK_EQ(row[spec.query_width() + i], -7.0f);
  }
  return result;
}

std::vector<double> expected(Cache& cache, int sequence, int position) {
  const DenseSpec& spec = cache.spec;
  const std::vector<float> q = query_of(spec, sequence, position);
  const int first = spec.sliding_window == 0 ? 0 : std::max(0, position + 1 - spec.sliding_window);
  std::vector<double> out(spec.query_width(), 0.0);
  for (int h = 0; h < spec.heads; h++) {
    const int kv_head = h / (spec.heads / spec.kv_heads);
    std::vector<double> score(position + 1, 0.0);
    for (int p = first; p <= position; p++) {
      for (int d = 0; d < spec.head_dim; d++) {
        score[p] += static_cast<double>(q[h * spec.head_dim + d]) * half_to_float(*cache.at(sequence, p, kv_head, d));
      }
      score[p] /= std::sqrt(spec.head_dim);
    }
    const double highest = *std::max_element(score.begin() + first, score.end());
    double sum = 0;
    for (int p = first; p <= position; p++) sum += score[p] = std::exp(score[p] - highest);
    for (int p = first; p <= position; p++) {
      for (int d = 0; d < spec.head_dim; d++) {
        out[h * spec.head_dim + d] +=
            score[p] / sum * half_to_float(*cache.at(sequence, p, spec.kv_heads + kv_head, d));
      }
    }
  }
  return out;
}

double worst_error(Cache& cache, const Rows& rows, const std::vector<std::vector<float>>& found) {
  double worst = 0;
  for (size_t r = 0; r < found.size(); r++) {
    const std::vector<double> e = expected(cache, rows.sequences[r], rows.positions[r]);
    for (size_t i = 0; i < e.size(); i++) {
      const double error = std::abs(found[r][i] - e[i]);
      worst = error <= worst ? worst : error;
      if (std::isnan(error)) return 1e30;
    }
  }
  return worst;
}

// Every row of every sequence.
Rows all_rows(const Cache& cache) {
  Rows rows;
  for (size_t s = 0; s < cache.lengths.size(); s++) {
    for (int p = 0; p < cache.lengths[s]; p++) {
      rows.sequences.push_back(static_cast<int>(s));
      rows.positions.push_back(p);
    }
  }
  return rows;
}

template <typename Body>
void with_each_instruction_set(Body&& body) {
  const std::string chosen = selected_kernels();
  for (const char* name : {"plain", "avx2", "avx512"}) {
    if (select_kernels(name)) body(name);
  }
  CHECK(select_kernels(chosen.c_str()));
}

bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace

TEST(all_shapes_match_float64_in_every_instruction_set) {
  ThreadPool pool(2);
  for (const auto& [heads, kv_heads, head_dim] : std::vector<std::array<int, 3>>{
           {4, 2, 16}, {8, 4, 8}, {9, 3, 64}, {2, 2, 80}, {4, 1, 128}, {3, 1, 2}, {33, 1, 32}, {2, 1, 256}}) {
    Cache cache(heads, kv_heads, head_dim, {37, 1, 16});
    const Rows rows = all_rows(cache);
    with_each_instruction_set([&](const char*) { CHECK(worst_error(cache, rows, run(cache, rows, pool)) < 2e-5); });
  }
}

TEST(long_rows_match_float64_on_one_and_many_threads) {
  Cache cache(4, 2, 32, {1025, 513, 255});
  Rows rows;
  for (int p : {1024, 1023, 768, 767, 512, 511, 257, 256, 255, 254, 0}) {
    for (int s = 0; s < 3; s++) {
      if (p >= cache.lengths[s]) continue;
      rows.sequences.push_back(s);
      rows.positions.push_back(p);
    }
  }
  with_each_instruction_set([&](const char*) {
    for (int threads : {1, 16}) {
      ThreadPool pool(threads);
      CHECK(worst_error(cache, rows, run(cache, rows, pool)) < 2e-5);
    }
  });
}

TEST(sliding_windows_match_float64_on_one_and_many_threads) {
  // Within a block, a block, across blocks, a span, across spans; and wider than the context.
  for (const int window : {1, 5, 16, 100, 256, 300, 5000}) {
    Cache cache(4, 2, 24, {700, 90, 1});
    cache.spec.sliding_window = window;
    Rows rows = all_rows(cache);
    Rows few;
    for (const int p : {699, 698, 600, 512, 511, 300, 256, 255, 17, 0}) {
      few.sequences.push_back(0);
      few.positions.push_back(p);
    }
    with_each_instruction_set([&](const char*) {
      for (const int threads : {1, 16}) {
        ThreadPool pool(threads);
        const auto together = run(cache, rows, pool);
        CHECK(worst_error(cache, rows, together) < 2e-5);
        const auto found = run(cache, few, pool);
        for (size_t r = 0; r < few.positions.size(); r++) CHECK(same(found[r], together[few.positions[r]]));
      }
    });
  }
}

TEST(nothing_outside_the_window_is_used) {
  constexpr int kPosition = 640;
  for (const int window : {1, 5, 17, 300}) {
    Cache cache(2, 1, 16, {kPosition + 1});
    cache.spec.sliding_window = window;
    const Rows rows = {{0}, {kPosition}};
    ThreadPool one(1), many(5);
    with_each_instruction_set([&](const char*) {
      const auto before = run(cache, rows, one);
      Cache poisoned = cache;
      for (int p = 0; p <= kPosition - window; p++) {
        for (int h = 0; h < 2; h++) {
          for (int d = 0; d < 16; d++) *poisoned.at(0, p, h, d) = kHalfNan;
        }
      }
      CHECK(same(run(poisoned, rows, one)[0], before[0]));
      CHECK(same(run(poisoned, rows, many)[0], before[0]));
      // The first position that it does see makes a difference.
      *poisoned.at(0, kPosition - window + 1, 1, 0) = kHalfNan;
      CHECK(!same(run(poisoned, rows, one)[0], before[0]));
    });
  }
}

TEST(large_scores_do_not_overflow) {
  // Higher from span to span, then lower: what was summed before must shrink, and what comes after too.
  for (const bool rising : {true, false}) {
    Cache cache(2, 1, 16, {700});
    for (int p = 0; p < 700; p++) {
      const int factor = rising ? 1 + p / 256 : 3 - p / 256;
      for (int d = 0; d < 16; d++) {
        *cache.at(0, p, 0, d) = float_to_half(static_cast<float>((p % 7 - 3) * 4000 * factor));
      }
    }
    ThreadPool one(1), many(5);
    const Rows rows = {{0, 0, 0}, {699, 299, 17}};
    with_each_instruction_set([&](const char*) {
      CHECK(worst_error(cache, rows, run(cache, rows, one)) < 2e-3);
      CHECK(worst_error(cache, rows, run(cache, rows, many)) < 2e-3);
    });
  }
}

TEST(a_row_has_the_same_bits_whatever_runs_beside_it) {
  with_each_instruction_set([](const char*) {
    Cache cache(6, 2, 24, {600, 90, 300});
    ThreadPool one(1), many(7);
    const Rows rows = all_rows(cache);
    const auto together = run(cache, rows, one);
    const auto threaded = run(cache, rows, many);
    for (size_t r = 0; r < rows.positions.size(); r++) CHECK(same(together[r], threaded[r]));
    for (size_t r = 0; r < rows.positions.size(); r += 13) {
      const Rows alone = {{rows.sequences[r]}, {rows.positions[r]}};
      CHECK(same(run(cache, alone, one)[0], together[r]));
      CHECK(same(run(cache, alone, many)[0], together[r]));
    }
    // Rows of one sequence out of order, between rows of others.
    std::vector<int> order(rows.positions.size());
    std::iota(order.begin(), order.end(), 0);
    std::mt19937_64 random = check::random(4);
    std::shuffle(order.begin(), order.end(), random);
    order.resize(60);
    std::sort(order.begin(), order.begin() + 30, [&](int a, int b) { return rows.sequences[a] < rows.sequences[b]; });
    Rows mixed;
    for (int r : order) {
      mixed.sequences.push_back(rows.sequences[r]);
      mixed.positions.push_back(rows.positions[r]);
    }
    for (ThreadPool* pool : {&one, &many}) {
      const auto found = run(cache, mixed, *pool);
      for (size_t i = 0; i < order.size(); i++) CHECK(same(found[i], together[order[i]]));
    }
  });
}

TEST(avx2_and_avx512_give_the_same_bits) {
  Cache cache(5, 1, 40, {400});
  const Rows rows = all_rows(cache);
  ThreadPool pool(2);
  const std::string chosen = selected_kernels();
  if (!select_kernels("avx2") || !select_kernels("avx512")) SKIP("this processor lacks one of them");
  const auto wide = run(cache, rows, pool);
  select_kernels("avx2");
  const auto narrow = run(cache, rows, pool);
  select_kernels(chosen.c_str());
  for (size_t r = 0; r < wide.size(); r++) CHECK(same(wide[r], narrow[r]));
}
