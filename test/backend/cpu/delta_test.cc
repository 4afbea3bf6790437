// The gated delta rule on the twin against float64 written out once more, and the same bits in every instruction set.
#include <cmath>
#include <vector>

#include "backend/cpu/vector_ops.h"
#include "check.h"
#include "core/cpu_info.h"

using namespace millrace;

namespace {

std::vector<const VectorOps*> all_ops() {
  std::vector<const VectorOps*> ops = {&vector_ops_plain};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) ops.push_back(&vector_ops_avx2);
  if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) ops.push_back(&vector_ops_avx512);
#endif
  return ops;
}

std::vector<float> normal(size_t count, uint64_t stream) {
  auto random = check::random(stream);
  std::normal_distribution<float> normal;
  std::vector<float> out(count);
  for (float& value : out) value = normal(random);
  return out;
}

// S = decay S + k (beta (v - decay S^T k))^T; out = S^T q
std::vector<double> reference(const DeltaRow& row, int keys, int values, std::vector<double>& state) {
  std::vector<double> out(values, 0.0);
  for (int j = 0; j < values; j++) {
    double seen = 0;
    for (int i = 0; i < keys; i++) seen += row.decay * state[i * values + j] * row.k[i];
    for (int i = 0; i < keys; i++) {
      double& s = state[i * values + j];
      s = row.decay * s + row.k[i] * row.beta * (row.v[j] - seen);
      out[j] += s * row.q[i];
    }
  }
  return out;
}

}  // namespace

TEST(a_row_goes_on_from_the_rows_before_it) {
  for (const auto& [keys, values] : {std::pair{128, 128}, {16, 32}, {24, 136}, {5, 3}}) {
    std::vector<std::vector<float>> first;  // of the first instruction set
    for (const VectorOps* ops : all_ops()) {
      std::vector<float> state(static_cast<size_t>(keys) * values, 0.0f);
      std::vector<double> exact(state.begin(), state.end());
      std::vector<std::vector<float>> outs;
      for (uint64_t r = 0; r < 40; r++) {
        const std::vector<float> raw_q = normal(keys, 3 * r), raw_k = normal(keys, 3 * r + 1),
                                 v = normal(values, 3 * r + 2);
        std::vector<float> q(keys), k(keys), out(values, -1.0f);
        ops->unit_length(raw_q.data(), keys, 1 / std::sqrt(keys), q.data());
        ops->unit_length(raw_k.data(), keys, 1, k.data());
        double length = 0;
        for (int i = 0; i < keys; i++) length += static_cast<double>(k[i]) * k[i];
        CHECK(std::abs(length - 1) < 1e-4);
        DeltaRow row;
        row.q = q.data(), row.k = k.data(), row.v = v.data(), row.out = out.data();
        row.decay = 0.5f + 0.0125f * static_cast<float>(r);
        row.beta = 1.0f - 0.02f * static_cast<float>(r);
        ops->delta_rule(row, keys, values, state.data());
        const std::vector<double> expected = reference(row, keys, values, exact);
        double error = 0, size = 0;
        for (int j = 0; j < values; j++) {
          error = std::max(error, std::abs(expected[j] - out[j]));
          size = std::max(size, std::abs(expected[j]));
        }
        CHECK(error < 2e-6 * (1 + size));
        outs.push_back(out);
      }
      if (first.empty()) first = outs;
      CHECK(outs == first);
    }
  }
}
