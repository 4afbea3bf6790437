#include "engine/pooling.h"

#include <cmath>

namespace millrace {

namespace {

// In 16 sums, as the twin's norms are.
double sum_of(std::span<const float> x, double mean, bool squares) {
  double lanes[16] = {};
  for (size_t i = 0; i < x.size(); i++) {
    const double value = x[i] - mean;
    lanes[i % 16] += squares ? value * value : value;
  }
  for (int half = 8; half > 0; half /= 2) {
    for (int j = 0; j < half; j++) lanes[j] += lanes[j + half];
  }
  return lanes[0];
}

const float* vector_of(const UnitLayout& layout, const std::byte* slab, int index) {
  return index == kNone ? nullptr : reinterpret_cast<const float*>(slab + layout.vectors[index]);
}

}  // namespace

void final_norm(const std::vector<Op>& head, const UnitLayout& layout, const std::byte* slab, std::span<float> row) {
  for (const Op& op : head) {
    const auto* norm = std::get_if<NormOp>(&op);
    if (norm == nullptr || norm->add) return;
    const float* weight = vector_of(layout, slab, norm->weight);
    const float* bias = vector_of(layout, slab, norm->bias);
    for (int g = 0; g < norm->groups; g++) {
      const std::span<float> x = row.subspan(norm->begin + static_cast<size_t>(g) * norm->width, norm->width);
      const double mean = norm->mean ? sum_of(x, 0, false) / norm->width : 0;
      const double inverse = 1.0 / std::sqrt(sum_of(x, mean, true) / norm->width + norm->epsilon);
      for (size_t i = 0; i < x.size(); i++) {
        x[i] = static_cast<float>((x[i] - mean) * inverse) * (weight == nullptr ? 1.0f : weight[i]);
        if (bias != nullptr) x[i] += bias[i];
      }
    }
  }
}

void PooledRows::add(std::span<const float> row) {
  sum_.resize(row.size());
  for (size_t i = 0; i < row.size(); i++) sum_[i] += row[i];
}

std::vector<float> PooledRows::unit_length() const {
  double squares = 0;
  for (const double value : sum_) squares += value * value;
  if (!std::isfinite(squares)) return {};
  const double length = std::sqrt(squares);
  std::vector<float> out(sum_.begin(), sum_.end());
  for (size_t i = 0; length > 0 && i < out.size(); i++) out[i] = static_cast<float>(sum_[i] / length);
  return out;
}

}  // namespace millrace
