// Experts of integer codes on the CPU: bit for bit what backend/expert_arithmetic.h says, computed here from decoded
// levels one product at a time; the same with every instruction set, number of rows and division of the row blocks.
#include "backend/cpu/expert_answer.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "backend/cpu/linear.h"
#include "check.h"
#include "core/half.h"
#include "experts.h"

using namespace millrace;

namespace {

template <typename Body>
void with_each_kernels(Body&& body) {
  const char* before = selected_kernels();
  for (const char* name : {"avx512vnni", "avx512", "avx2", "plain"}) {
    if (select_kernels(name)) body();
  }
  CHECK(select_kernels(before));
}

struct Chunk {
  int begin, end;  // stored input features
};
std::vector<Chunk> chunks_of(const MatrixLayout& m) {
  const ExpertOrder order = expert_order(m);
  std::vector<Chunk> chunks;
  for (int at = 0; at < m.k_stored;) {
    int end = at + order.chunk * kTileK;
    if (order.in_groups) end = std::min(end, (at / m.code.group + 1) * m.code.group);
    end = std::min(end, m.k_stored);
    chunks.push_back({at, end});
    at = end;
  }
  return chunks;
}

// One linear of one row, by the header's words. x: float16 numbers.
std::vector<float> said(const experts::Expert& e, const LinearLayout& linear, const std::vector<float>& x) {
  const MatrixLayout& m = linear.segments[0].matrix;
  const ExpertOrder order = expert_order(m);
  const std::byte* base = e.data() + m.offset;
  std::vector<float> stored(m.k_stored, 0.0f);
  for (int i = 0; i < m.k_stored; i++) {
    int32_t from = i < m.k ? i : kPadding;
    if (m.code.permuted) std::memcpy(&from, e.data() + m.permutation_offset + 4 * i, 4);
    if (from != kPadding) stored[i] = x[from];
  }
  std::vector<float> y(linear.n);
  for (int n = 0; n < m.n; n++) {
    const int row_block = n / kTileN;
    float total = 0, run = 0;
    for (const Chunk& chunk : chunks_of(m)) {
      float largest = 0;
      for (int k = chunk.begin; k < chunk.end; k++) largest = std::max(largest, std::fabs(stored[k]));
      // |q| < 2^15 with the largest power of two that allows it; at most what 2^-24 takes.
      const float factor = std::exp2(14.0f - std::max(std::floor(std::log2(std::max(largest, 0x1p-30f))), -24.0f));
      for (int begin = chunk.begin; begin < chunk.end;) {
        const int group = begin / m.code.group, end = std::min((group + 1) * m.code.group, chunk.end);
        const GroupValues values = decode_group(m, base, row_block, group, n % kTileN);
        int64_t sum = 0, x_sum = 0;
        for (int k = begin; k < end; k++) {
          uint8_t q[kTileN * kTileK];
          decode_tile(m.code.type, base + m.tile_offset(row_block, k / kTileK), q);
          const auto level =
              static_cast<int64_t>(level_of(m.code.traits(), q[n % kTileN * kTileK + k % kTileK], values.zero));
          const auto number = static_cast<int64_t>(std::nearbyint(stored[k] * factor));
          sum += level * number;
          x_sum += number;
        }
        run += static_cast<float>(sum) * (values.scale * (1 / factor));
        if (m.code.traits().minimums()) run += values.minimum * (static_cast<float>(x_sum) * (1 / factor));
        begin = end;
      }
      if (chunk.end % (order.run * kTileK) == 0 || chunk.end == m.k_stored) {
        total += run;
        run = 0;
      }
    }
    y[n] = linear.has_bias ? total + reinterpret_cast<const float*>(e.data() + linear.bias_offset)[n] : total;
  }
  return y;
}

float reference_activation(const ExpertCall& call, float gate, float up) {
  if (call.activation == Activation::silu) return gate / (1 + std::exp(-gate)) * up;
  gate = std::min(gate, call.limit);
  up = std::min(std::max(up, -call.limit), call.limit);
  return gate / (1 + std::exp(-call.alpha * gate)) * (up + 1);
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace

TEST(float16_is_rounded_as_the_formats_are) {
  auto random = check::random();
  for (int i = 0; i < 200000; i++) {
    const auto value = std::bit_cast<float>(static_cast<uint32_t>(random()));
    if (std::isnan(value)) {
      CHECK(std::isnan(round_to_half(value)));
      continue;
    }
    const float expected = half_to_float(float_to_half(std::fmin(std::fmax(value, -65504.0f), 65504.0f)));
    CHECK_EQ(std::bit_cast<uint32_t>(round_to_half(value)), std::bit_cast<uint32_t>(expected));
  }
}

TEST(linears_are_what_the_header_says_to_the_bit) {
  uint64_t seed = 1;
  for (const MatrixCode& code : experts::codes()) {
    const experts::Expert e(code, 416, 112, Activation::silu, true, seed);
    const std::vector<float> x = experts::inputs(1, 416, seed++);
    for (const LinearLayout* linear : {&e.gate_up, &e.down}) {
      const std::vector<float> own(x.begin(), x.begin() + linear->k);
      const std::vector<float> expected = said(e, *linear, own);
      with_each_kernels([&] {
        ExpertRows rows;
        rows.begin(*linear, e.data(), 1);
        rows.quantize(0, own.data());
        std::vector<float> y(linear->n);
        float* out = y.data();
        rows.multiply(0, row_blocks(*linear), &out);
        CHECK(same_bits(y, expected));
      });
    }
  }
}

TEST(a_row_has_its_bits_in_every_crowd_and_division) {
  uint64_t seed = 100;
  for (const MatrixCode& code : experts::codes()) {
    const experts::Expert e(code, 288, 160, seed % 2 == 0 ? Activation::silu : Activation::clamped_swiglu,
                            seed % 3 == 0, seed);
    constexpr int kRows = 53;
    const std::vector<float> x = experts::inputs(kRows, 288, seed++);
    const std::vector<float> alone = [&] {
      std::vector<float> y;
      for (int row = 0; row < kRows; row++) {
        const std::vector<float> one = e.answer({x.begin() + row * 288, x.begin() + (row + 1) * 288}, 1);
        y.insert(y.end(), one.begin(), one.end());
      }
      return y;
    }();
    with_each_kernels([&] {
      for (const int rows : {1, 3, 8, 9, 32, kRows}) {
        const std::vector<float> y = e.answer({x.begin(), x.begin() + rows * 288}, rows);
        CHECK(same_bits(y, {alone.begin(), alone.begin() + rows * 288}));
      }
      ExpertAnswer answer;
      std::vector<float> y(288);
      const float* in = x.data();
      float* out = y.data();
      answer.begin(e.call(1, &in, &out));
      answer.quantize(0);
      for (int block = answer.gate_up_blocks(); block-- > 0;) answer.gate_up(block, block + 1);
      answer.activate(0);
      for (int block = answer.down_blocks(); block-- > 0;) answer.down(block, block + 1);
      CHECK(same_bits(y, {alone.begin(), alone.begin() + 288}));
    });
  }
}

TEST(an_expert_is_close_to_float64) {
  uint64_t seed = 200;
  for (const MatrixCode& code : experts::codes()) {
    for (const Activation activation : {Activation::silu, Activation::clamped_swiglu}) {
      const experts::Expert e(code, 256, 128, activation, seed % 2 == 0, seed);
      const std::vector<float> x = experts::inputs(2, 256, seed++);
      const std::vector<float> y = e.answer(x, 2);
      const std::vector<float> gate_up = decode_matrix(e.gate_up.segments[0].matrix, e.data());
      const std::vector<float> down = decode_matrix(e.down.segments[0].matrix, e.data());
      const auto bias = [&](const LinearLayout& linear, int n) {
        return linear.has_bias ? reinterpret_cast<const float*>(e.data() + linear.bias_offset)[n] : 0.0f;
      };
      double difference = 0, size = 0;
      for (int row = 0; row < 2; row++) {
        std::vector<double> both(e.gate_up.n), hidden(128);
        for (int n = 0; n < e.gate_up.n; n++) {
          both[n] = bias(e.gate_up, n);
          for (int k = 0; k < 256; k++) both[n] += static_cast<double>(gate_up[n * 256 + k]) * x[row * 256 + k];
        }
        for (int i = 0; i < 128; i++) {
          const int gate = e.gate_up.interleaved ? i / 8 * 16 + i % 8 : i;
          const int up = e.gate_up.interleaved ? gate + 8 : 128 + i;
          hidden[i] = reference_activation(e.call(0, nullptr, nullptr), static_cast<float>(both[gate]),
                                           static_cast<float>(both[up]));
        }
        for (int n = 0; n < 256; n++) {
          double expected = bias(e.down, n);
          for (int k = 0; k < 128; k++) expected += down[n * 128 + k] * hidden[k];
          difference += (y[row * 256 + n] - expected) * (y[row * 256 + n] - expected);
          size += expected * expected;
        }
      }
      CHECK(std::sqrt(difference / size) < 1e-3);  // float16 between the linears
    }
  }
}

TEST(a_row_that_is_not_finite_stays_so_and_alone) {
  const experts::Expert e({WeightType::q4, ScaleType::f16, false, false, 128}, 256, 128, Activation::silu, false, 7);
  std::vector<float> x = experts::inputs(2, 256, 7);
  const std::vector<float> before = e.answer({x.begin() + 256, x.end()}, 1);
  x[3] = NAN;
  const std::vector<float> y = e.answer(x, 2);
  for (int n = 0; n < 256; n++) CHECK(std::isnan(y[n]));
  CHECK(same_bits({y.begin() + 256, y.end()}, before));
}
