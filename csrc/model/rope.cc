#include "model/rope.h"

#include <cmath>
#include <numbers>

namespace millrace {

std::vector<double> rope_frequencies(const ModelSpec& spec) {
  const int half = spec.head_dim / 2;
  std::vector<double> frequency(half);
  for (int i = 0; i < half; i++) {
    frequency[i] = std::pow(spec.rope.theta, -2.0 * i / spec.head_dim);
  }
  if (spec.rope.scaling == RopeScaling::linear) {
    for (double& f : frequency) f /= spec.rope.factor;
  } else if (spec.rope.scaling == RopeScaling::llama3) {
    // Long wavelengths are stretched by `factor`, short ones kept, those between blended.
    const double original = spec.rope.original_max_position;
    const double longest_kept = original / spec.rope.high_frequency_factor;
    const double shortest_stretched = original / spec.rope.low_frequency_factor;
    for (double& f : frequency) {
      const double wavelength = 2.0 * std::numbers::pi / f;
      if (wavelength > shortest_stretched) {
        f /= spec.rope.factor;
      } else if (wavelength > longest_kept) {
        const double smooth = (original / wavelength - spec.rope.low_frequency_factor) /
                              (spec.rope.high_frequency_factor - spec.rope.low_frequency_factor);
        f = (1.0 - smooth) * f / spec.rope.factor + smooth * f;
      }
    }
  }
  return frequency;
}

std::vector<float> rope_table(const ModelSpec& spec, int begin, int end) {
  const std::vector<double> frequency = rope_frequencies(spec);
  const int half = spec.head_dim / 2;
  std::vector<float> table(static_cast<size_t>(end - begin) * spec.head_dim);
  for (int position = begin; position < end; position++) {
    float* row = table.data() + static_cast<size_t>(position - begin) * spec.head_dim;
    for (int i = 0; i < half; i++) {
      const double angle = position * frequency[i];
      row[i] = static_cast<float>(std::cos(angle));
      row[half + i] = static_cast<float>(std::sin(angle));
    }
  }
  return table;
}

}  // namespace millrace
