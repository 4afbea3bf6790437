#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace millrace {

namespace {

// The NTK-aware base of transformers' 'dynamic' scaling at the model's greatest length, original * factor.
double dynamic_theta(const ModelSpec& spec) {
  const double factor = spec.rope.factor;
  const double stretch = factor * factor - (factor - 1.0);
  return spec.rope.theta * std::pow(stretch, spec.head_dim / (spec.head_dim - 2.0));
}

// YaRN's NTK-by-parts (section 3.2): pairs that turn often within the original context are kept, those that turn
// seldom are stretched, with a linear ramp over the pairs between.
void scale_yarn(const ModelSpec& spec, std::vector<double>& frequency) {
  const RopeSpec& rope = spec.rope;
  const auto pair_of = [&](double turns) {
    return spec.head_dim * std::log(rope.original_max_position / (turns * 2.0 * std::numbers::pi)) /
           (2.0 * std::log(rope.theta));
  };
  double low = pair_of(rope.beta_fast), high = pair_of(rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, spec.head_dim - 1.0);
  if (low == high) high += 0.001;
  for (size_t i = 0; i < frequency.size(); i++) {
    const double stretched = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    frequency[i] = frequency[i] / rope.factor * stretched + frequency[i] * (1.0 - stretched);
  }
}

}  // namespace

double rope_amplitude(const ModelSpec& spec) {
  return spec.rope.scaling == RopeScaling::yarn ? spec.rope.attention_factor : 1.0;
}

std::vector<double> rope_frequencies(const ModelSpec& spec) {
  const int half = spec.head_dim / 2;
  const double theta = spec.rope.scaling == RopeScaling::dynamic ? dynamic_theta(spec) : spec.rope.theta;
  std::vector<double> frequency(half);
  for (int i = 0; i < half; i++) {
    frequency[i] = std::pow(theta, -2.0 * i / spec.head_dim);
    if (!spec.rope.factors.empty()) frequency[i] /= spec.rope.factors[i];
  }
  if (spec.rope.scaling == RopeScaling::linear) {
    for (double& f : frequency) f /= spec.rope.factor;
  } else if (spec.rope.scaling == RopeScaling::yarn) {
    scale_yarn(spec, frequency);
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
  const double amplitude = rope_amplitude(spec);
  const int half = spec.head_dim / 2;
  std::vector<float> table(static_cast<size_t>(end - begin) * spec.head_dim);
  for (int position = begin; position < end; position++) {
    float* row = table.data() + static_cast<size_t>(position - begin) * spec.head_dim;
    for (int i = 0; i < half; i++) {
      const double angle = position * frequency[i];
      row[i] = static_cast<float>(amplitude * std::cos(angle));
      row[half + i] = static_cast<float>(amplitude * std::sin(angle));
    }
  }
  return table;
}

}  // namespace millrace
