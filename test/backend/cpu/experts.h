#pragma once
// Experts of random weights in every integer code, for tests of both devices.
#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "backend/cpu/expert_answer.h"
#include "backend/expert_arithmetic.h"
#include "check.h"
#include "core/memory.h"
#include "stream/synthetic.h"

namespace millrace::experts {

inline std::vector<MatrixCode> codes() {
  std::vector<MatrixCode> out;
  for (int type = 0; type < kWeightTypes; type++) {
    MatrixCode code;
    code.type = static_cast<WeightType>(type);
    if (!code.traits().integer()) continue;
    if (code.type == WeightType::q4) {
      for (const int group : {16, 32, 48, 64, 128, 192, 256}) {
        out.push_back({WeightType::q4, ScaleType::f16, false, false, group});
        out.push_back({WeightType::q4, ScaleType::f16, true, false, group});
      }
      out.push_back({WeightType::q4, ScaleType::bf16, true, true, 128});
      out.push_back({WeightType::q4, ScaleType::f16, false, true, 32});
      continue;
    }
    for (code.group = groups_of(code.type).least; code.group <= groups_of(code.type).most; code.group *= 2) {
      out.push_back(code);
    }
  }
  out.push_back({WeightType::q8, ScaleType::bf16, true, false, 32});
  out.push_back({WeightType::q8, ScaleType::f16, true, true, 64});
  return out;
}

class Expert {
 public:
  LinearLayout gate_up, down;

  Expert(MatrixCode code, int hidden, int features, Activation activation, bool bias, uint64_t seed)
      : activation_(activation) {
    auto random = check::random(seed);
    SlabBuilder builder;
    const auto lay = [&](LinearLayout& linear, int n, int k) {
      linear.n = n;
      linear.k = k;
      linear.segments.push_back({builder.matrix(code, n, k, static_cast<int>(round_up(k, kTileK))), 0});
      linear.has_bias = bias;
      if (bias) linear.bias_offset = builder.floats(n);
    };
    gate_up.interleaved = features % 8 == 0;
    lay(gate_up, 2 * features, hidden);
    lay(down, hidden, features);
    memory_ = HostMemory(builder.bytes(), "a test's expert");
    for (const LinearLayout* linear : {&gate_up, &down}) {
      const MatrixLayout& m = linear->segments[0].matrix;
      for (int block = 0; block < m.n_blocks(); block++) {
        fill_row_block(m, memory_.data() + m.offset + block * m.row_block_bytes(), seed * 1000 + block);
      }
      if (code.permuted) {
        std::vector<int32_t> order(m.k_stored, kPadding);
        std::iota(order.begin(), order.begin() + m.k, 0);
        std::shuffle(order.begin(), order.end(), random);
        std::memcpy(memory_.data() + m.permutation_offset, order.data(), order.size() * sizeof(int32_t));
      }
      std::normal_distribution<float> normal;
      auto* biases = reinterpret_cast<float*>(memory_.data() + linear->bias_offset);
      for (int n = 0; bias && n < linear->n; n++) biases[n] = normal(random);
    }
  }

  const std::byte* data() const { return memory_.data(); }
  size_t bytes() const { return memory_.size(); }

  ExpertCall call(int rows, const float* const* x, float* const* y) const {
    ExpertCall call;
    call.gate_up = &gate_up;
    call.down = &down;
    call.expert = data();
    call.activation = activation_;
    call.alpha = 1.702f;
    call.limit = 7;
    call.rows = rows;
    call.x = x;
    call.y = y;
    return call;
  }
  // [rows, down.n] of x [rows, gate_up.k].
  std::vector<float> answer(const std::vector<float>& x, int rows) const {
    std::vector<float> y(static_cast<size_t>(rows) * down.n);
    std::vector<const float*> in;
    std::vector<float*> out;
    for (int row = 0; row < rows; row++) {
      in.push_back(x.data() + static_cast<size_t>(row) * gate_up.k);
      out.push_back(y.data() + static_cast<size_t>(row) * down.n);
    }
    ExpertAnswer answer;
    answer_expert(call(rows, in.data(), out.data()), answer);
    return y;
  }

 private:
  Activation activation_;
  HostMemory memory_;
};

// Normal numbers as float16 has them, a few of them large, and runs of zeros.
inline std::vector<float> inputs(int rows, int k, uint64_t seed) {
  auto random = check::random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<size_t>(rows) * k);
  for (float& value : x) value = round_to_half(normal(random) * (random() % 64 == 0 ? 100.0f : 1.0f));
  for (int row = 0; row < rows; row += 3) {
    for (int i = 0; i < std::min(k, 130); i++) x[static_cast<size_t>(row) * k + i] = 0;
  }
  return x;
}

}  // namespace millrace::experts
