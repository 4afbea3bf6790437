// Keys and values of 8 bits: what a row becomes, byte by byte, and attention to it against float64.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/attention.h"
#include "backend/cpu/kv_append.h"
#include "backend/cpu/linear.h"
#include "check.h"

using namespace millrace;

namespace {

template <typename Body>
void with_each_instruction_set(Body&& body) {
  const std::string chosen = selected_kernels();
  for (const char* name : {"plain", "avx2", "avx512"}) {
    if (select_kernels(name)) body();
  }
  CHECK(select_kernels(chosen.c_str()));
}

// The rule of model/kv_type.h in float64, where a product of two floats is exact and only then rounded to float32.
struct Expected {
  float scale;
  std::vector<int> q;
};
Expected expected_row(const std::vector<float>& row) {
  double most = 0;
  for (const float x : row) most = std::max(most, std::min(65504.0, std::abs(static_cast<double>(x))));
  Expected out{static_cast<float>(most / 127), std::vector<int>(row.size(), 128)};
  if (most < 0x1p-100) return {0, out.q};
  const auto inverse = static_cast<float>(127 / most);
  for (size_t i = 0; i < row.size(); i++) {
    const double x = std::min(65504.0, std::max(-65504.0, static_cast<double>(row[i])));
    out.q[i] = 128 + static_cast<int>(std::nearbyint(static_cast<float>(x * inverse)));
  }
  return out;
}

void check_row(const std::vector<float>& row) {
  const Expected want = expected_row(row);
  with_each_instruction_set([&] {
    std::vector<uint8_t> q(row.size() + 1, 7);
    const float scale = vector_ops().to_q8(row.data(), static_cast<int>(row.size()), q.data());
    CHECK(std::memcmp(&scale, &want.scale, sizeof(scale)) == 0);
    for (size_t i = 0; i < row.size(); i++) CHECK_EQ(static_cast<int>(q[i]), want.q[i]);
    CHECK_EQ(static_cast<int>(q[row.size()]), 7);
  });
}

// A layer's blocks of one sequence, in no order; positions that were never written hold scales that are NaN.
struct Layer {
  int kv_heads, head_dim, positions;
  size_t block_bytes;
  std::vector<int32_t> table;
  std::vector<std::byte> bytes;

  Layer(int kv_heads, int head_dim, int positions)
      : kv_heads(kv_heads),
        head_dim(head_dim),
        positions(positions),
        block_bytes(kv_block_bytes({1, 0, kv_heads, head_dim, 0, false, KvType::q8})) {
    const int blocks = (positions + kKvBlockTokens - 1) / kKvBlockTokens;
    for (int i = 0; i < blocks; i++) table.push_back((i * 7 + 3) % blocks);
    if (blocks % 7 == 0) std::iota(table.begin(), table.end(), 0);
    bytes.assign(blocks * block_bytes, std::byte{0xff});
    std::mt19937_64 random = check::random(static_cast<uint64_t>(positions));
    std::normal_distribution<float> normal(0, 1);
    std::vector<float> row(static_cast<size_t>(2 * kv_heads) * head_dim);
    for (int p = 0; p < positions; p++) {
      for (float& x : row) x = normal(random) * (1.0f + static_cast<float>(p % 5));
      append_kv(row.data(), row.data() + static_cast<size_t>(kv_heads) * head_dim, {KvType::q8, kv_heads, head_dim}, p,
                block(p));
    }
  }
  std::byte* block(int position) { return bytes.data() + table[position / kKvBlockTokens] * block_bytes; }
  // part in [0, kv_heads): keys; then values
  double at(int position, int part, int d) {
    const std::byte* from = block(position) + part * kv_part_bytes(KvType::q8, head_dim);
    float scale;
    std::memcpy(&scale, from + kv_scales_at(head_dim) + position % kKvBlockTokens * sizeof(float), sizeof(scale));
    const auto q = static_cast<int>(from[position % kKvBlockTokens * head_dim + d]);
    return static_cast<double>(scale) * (q - 128);
  }
};

}  // namespace

TEST(rows_become_the_same_bytes_in_every_instruction_set) {
  std::mt19937_64 random = check::random();
  std::normal_distribution<float> normal(0, 1);
  for (const int width : {2, 16, 64, 80, 128, 130, 256}) {
    for (const float size : {1.0f, 1e-20f, 3e4f, 1e30f}) {
      std::vector<float> row(static_cast<size_t>(width));
      for (float& x : row) x = normal(random) * size;
      check_row(row);
    }
  }
  // Ties go to the even one: with 127 as the largest, x is its own quotient.
  check_row({127, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, 126.5f, -126.5f, 125.5f});
  check_row({0, 0, -0.0f, 0});
  check_row({1e-38f, -1e-31f});
  check_row({std::numeric_limits<float>::infinity(), 65504.0f, -1.0f, -std::numeric_limits<float>::infinity()});
}

TEST(a_row_with_a_number_that_is_none_is_known_by_its_scale) {
  with_each_instruction_set([&] {
    for (const int at : {0, 5, 31}) {
      std::vector<float> row(32, 1.0f);
      row[at] = std::numeric_limits<float>::quiet_NaN();
      uint8_t q[32];
      CHECK(std::isnan(vector_ops().to_q8(row.data(), 32, q)));
    }
  });
}

TEST(blocks_are_of_the_size_that_the_layout_says) {
  CHECK_EQ(kv_block_bytes({1, 0, 8, 128}), size_t{2 * 8 * 16 * 128 * 2});
  CHECK_EQ(kv_block_bytes({1, 0, 8, 128, 0, false, KvType::q8}), size_t{2 * 8 * (16 * 128 + 64)});
  const std::vector<KvClass> kept =
      kept_as({{2, 0, 8, 128}, {3, 64, 2, 80}, {1, 0, 1, 576, 0, true}, {1, 0, 0, 0, 96}}, KvType::q8);
  CHECK(kept[0].type == KvType::q8 && kept[1].type == KvType::q8);
  CHECK(kept[2].type == KvType::f16 && kept[3].type == KvType::f16);
  for (const KvClass& kv : kept) CHECK_EQ(kv_block_bytes(kv) % 16, 0u);
}

TEST(attention_matches_float64_in_every_instruction_set) {
  for (const auto& [heads, kv_heads, head_dim, window] : std::vector<std::array<int, 4>>{
           {4, 2, 16, 0}, {9, 3, 64, 0}, {2, 2, 80, 0}, {4, 1, 128, 40}, {3, 1, 6, 0}, {2, 1, 256, 300}}) {
    Layer layer(kv_heads, head_dim, 590);
    std::vector<int32_t> positions = {0, 1, 15, 16, 255, 256, 300, 588, 589}, sequences(positions.size(), 0);
    std::vector<float> q(positions.size() * heads * head_dim), out(q.size());
    std::mt19937_64 random = check::random(5);
    std::normal_distribution<float> normal(0, 1);
    for (float& x : q) x = normal(random);
    AttentionCall call;
    call.rows = static_cast<int>(positions.size());
    call.heads = heads, call.kv_heads = kv_heads, call.head_dim = head_dim;
    call.window = window;
    call.q = q.data(), call.out = out.data();
    call.q_stride = call.out_stride = static_cast<int64_t>(heads) * head_dim;
    call.positions = positions, call.sequences = sequences, call.block_tables = layer.table;
    call.block_table_stride = static_cast<int>(layer.table.size());
    call.type = KvType::q8;
    call.kv = layer.bytes.data();
    call.block_bytes = layer.block_bytes;
    with_each_instruction_set([&] {
      ThreadPool pool(2);
      AttentionScratch scratch;
      attention(call, pool, scratch);
      for (size_t r = 0; r < positions.size(); r++) {
        const int last = positions[r], first = window == 0 ? 0 : std::max(0, last + 1 - window);
        for (int h = 0; h < heads; h++) {
          const int kv_head = h / (heads / kv_heads);
          const float* query = q.data() + (r * heads + h) * head_dim;
          std::vector<double> score;
          for (int p = first; p <= last; p++) {
            double sum = 0;
            for (int d = 0; d < head_dim; d++) sum += query[d] * layer.at(p, kv_head, d);
            score.push_back(sum / std::sqrt(head_dim));
          }
          const double highest = *std::max_element(score.begin(), score.end());
          double all = 0;
          for (double& s : score) all += s = std::exp(s - highest);
          for (int d = 0; d < head_dim; d++) {
            double value = 0;
            for (int p = first; p <= last; p++) value += score[p - first] / all * layer.at(p, kv_heads + kv_head, d);
            CHECK(std::abs(out[(r * heads + h) * head_dim + d] - value) < 1e-4);
          }
        }
      }
    });
  }
}
