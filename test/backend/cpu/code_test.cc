// Linears of every grouped code on the CPU: against float64 sums over decode_matrix(), and bit for bit between
// instruction sets, numbers of rows and numbers of threads.
#include <atomic>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "backend/cpu/linear.h"
#include "check.h"
#include "core/half.h"
#include "core/memory.h"
#include "stream/synthetic.h"

using namespace millrace;

namespace {

struct Problem {
  MatrixLayout matrix;
  std::vector<std::byte> memory;
  std::byte* slab = nullptr;
  std::vector<float> x;
  int rows = 0;
};

std::vector<MatrixCode> all_codes() {
  std::vector<MatrixCode> out;
  for (int type = 0; type < kWeightTypes; type++) {
    MatrixCode code;
    code.type = static_cast<WeightType>(type);
    if (!code.traits().grouped()) continue;
    for (int group = groups_of(code.type).least; group <= groups_of(code.type).most; group *= 2) {
      code.group = group;
      out.push_back(code);
    }
  }
  MatrixCode zeros{WeightType::q8, ScaleType::bf16, true, false, 32};
  out.push_back(zeros);
  out.push_back({WeightType::q4_1, ScaleType::bf16, false, false, 32});
  return out;
}

Problem make(MatrixCode code, int n, int k, int rows, uint64_t seed) {
  Problem p;
  SlabBuilder builder;
  p.matrix = builder.matrix(code, n, k, static_cast<int>(round_up(k, kTileK)));
  p.memory.resize(builder.bytes() + 64);
  p.slab = reinterpret_cast<std::byte*>(round_up(reinterpret_cast<uintptr_t>(p.memory.data()), 64));
  for (int block = 0; block < p.matrix.n_blocks(); block++) {
    fill_row_block(p.matrix, p.slab + p.matrix.offset + block * p.matrix.row_block_bytes(), seed + block);
  }
  auto random = check::random(seed);
  if (code.permuted) {
    std::vector<int32_t> order(p.matrix.k_stored, kPadding);
    std::iota(order.begin(), order.begin() + k, 0);
    std::shuffle(order.begin(), order.end(), random);
    std::memcpy(p.slab + p.matrix.permutation_offset, order.data(), order.size() * sizeof(int32_t));
  }
  std::normal_distribution<float> normal;
  p.rows = rows;
  p.x.resize(static_cast<size_t>(rows) * k);
  for (float& value : p.x) value = normal(random);
  return p;
}

std::vector<float> run(const Problem& p, int first, int rows, int threads) {
  LinearLayout layout;
  layout.n = p.matrix.n;
  layout.k = p.matrix.k;
  layout.segments.push_back({p.matrix, 0});
  std::vector<float> y(static_cast<size_t>(rows) * layout.n);
  ThreadPool pool(threads);
  LinearScratch scratch;
  std::atomic<uint64_t> bytes{0};
  LinearCall call;
  call.layout = &layout;
  call.slab = p.slab;
  call.x = p.x.data() + static_cast<size_t>(first) * layout.k;
  call.x_stride = layout.k;
  call.rows = rows;
  call.y = y.data();
  call.y_stride = layout.n;
  linear(call, pool, scratch, bytes);
  CHECK_EQ(bytes.load(), p.matrix.bytes);
  return y;
}

// Relative to the row's size.
double worst_error(const Problem& p, const std::vector<float>& y) {
  const std::vector<float> w = decode_matrix(p.matrix, p.slab);
  double worst = 0;
  for (int row = 0; row < p.rows; row++) {
    double difference = 0, size = 0;
    for (int n = 0; n < p.matrix.n; n++) {
      double sum = 0;
      for (int k = 0; k < p.matrix.k; k++) {
        sum += static_cast<double>(w[static_cast<size_t>(n) * p.matrix.k + k]) *
               p.x[static_cast<size_t>(row) * p.matrix.k + k];
      }
      const double found = y[static_cast<size_t>(row) * p.matrix.n + n];
      difference += (found - sum) * (found - sum);
      size += sum * sum;
    }
    const double error = std::sqrt(difference / size);
    if (!(error <= worst)) worst = error;  // NaN too
  }
  return worst;
}

template <typename Body>
void with_each_kernels(Body&& body) {
  const char* before = selected_kernels();
  for (const char* name : {"avx512vnni", "avx512", "avx2", "plain"}) {
    if (select_kernels(name)) body();
  }
  CHECK(select_kernels(before));
}

}  // namespace

TEST(every_code_is_close_to_float64) {
  uint64_t seed = 1;
  for (const MatrixCode& code : all_codes()) {
    for (const int k : {128, 416, 768}) {  // spans and groups that are not whole too
      const Problem p = make(code, 200, k, 7, seed++);
      with_each_kernels([&] { CHECK(worst_error(p, run(p, 0, 7, 2)) < 2e-4); });
    }
  }
}

TEST(eight_bits_gather_through_a_permutation) {
  for (const bool zeros : {false, true}) {
    const Problem p = make({WeightType::q8, ScaleType::f16, zeros, true, 64}, 200, 500, 5, 50);
    with_each_kernels([&] { CHECK(worst_error(p, run(p, 0, 5, 2)) < 2e-4); });
  }
}

TEST(bits_are_the_same_for_every_instruction_set_and_crowd) {
  constexpr int kRows = 53;
  uint64_t seed = 100;
  for (const MatrixCode& code : all_codes()) {
    const bool integer = code.traits().integer();
    const Problem p = make(code, 130, 384, kRows, seed++);
    const char* before = selected_kernels();
    CHECK(select_kernels("plain"));
    const std::vector<float> plain = run(p, 0, kRows, 1);
    CHECK(select_kernels(before));
    with_each_kernels([&] {
      const std::vector<float> all = run(p, 0, kRows, 3);
      if (integer) CHECK(all == plain);
      for (const int rows : {1, 2, 3, 5, 8, 17}) {
        const std::vector<float> some = run(p, 4, rows, 1);
        CHECK(std::memcmp(some.data(), all.data() + 4 * p.matrix.n, some.size() * sizeof(float)) == 0);
      }
    });
  }
}

TEST(the_largest_sums_of_eight_bits_do_not_overflow) {
  for (const uint8_t level : {0, 255}) {
    Problem p = make({WeightType::q8, ScaleType::f16, true, false, 64}, 64, 64, 3, 200);
    const std::vector<uint8_t> q(kTileN * kTileK, level);
    GroupField fields[kTileN];
    for (GroupField& field : fields) {
      field.scale = float_to_half(1.0f);
      field.offset = static_cast<uint16_t>(255 - level);
    }
    std::byte* matrix = p.slab + p.matrix.offset;
    encode_group(p.matrix.code, fields, matrix);
    for (int slice = 0; slice < 4; slice++)
      encode_tile(WeightType::q8, q.data(), matrix + p.matrix.tile_offset(0, slice));
    std::fill(p.x.begin(), p.x.end(), -1.0f);
    with_each_kernels([&] { CHECK(worst_error(p, run(p, 0, 3, 1)) < 1e-6); });
  }
}
