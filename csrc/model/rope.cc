#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"

namespace millrace {

namespace {

// The NTK-aware base of transformers' 'dynamic' scaling at the model's greatest length, original * factor.
double dynamic_theta(const RopeSpec& rope) {
  const double stretch = rope.factor * rope.factor - (rope.factor - 1.0);
  return rope.theta * std::pow(stretch, rope.rotary / (rope.rotary - 2.0));
}

// YaRN's NTK-by-parts (section 3.2): pairs that turn often within the original context are kept, those that turn
// seldom are stretched, with a linear ramp over the pairs between.
void scale_yarn(const RopeSpec& rope, std::vector<double>& frequency) {
  const auto pair_of = [&](double turns) {
    return rope.rotary * std::log(rope.original_max_position / (turns * 2.0 * std::numbers::pi)) /
           (2.0 * std::log(rope.theta));
  };
  double low = pair_of(rope.beta_fast), high = pair_of(rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, rope.rotary - 1.0);
  if (low == high) high += 0.001;
  for (size_t i = 0; i < frequency.size(); i++) {
    const double stretched = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    frequency[i] = frequency[i] / rope.factor * stretched + frequency[i] * (1.0 - stretched);
  }
}

}  // namespace

RopeSpec RopeSpec::of_context(int context) const {
  RopeSpec out = *this;
  if (!long_factors.empty() && context > original_max_position) out.factors = long_factors;
  out.long_factors.clear();
  return out;
}

void RopeSpec::validate() const {
  const auto require = [](bool sound, const char* what) {
    if (!sound) throw Error(code::kCheckpointInvalid, what, "check that config.json belongs to this checkpoint");
  };
  const auto positive = [](double value) { return value > 0 && std::isfinite(value); };
  require(
      head_dim >= 2 && head_dim <= 1 << 10 && head_dim % 2 == 0 && rotary >= 0 && rotary <= head_dim && rotary % 2 == 0,
      "config.json: head_dim and its part that is rotated must be even, and no more than 1024");
  require(positive(theta) && positive(factor), "config.json: rope_theta and the rope factor must be positive");
  const auto one_a_pair = [&](const std::vector<double>& list) {
    return list.empty() ||
           (list.size() == static_cast<size_t>(rotary) / 2 && std::all_of(list.begin(), list.end(), positive));
  };
  require(one_a_pair(factors) && one_a_pair(long_factors),
          format("rope: expected %d positive factors of frequencies, found %zu or others", rotary / 2, factors.size())
              .c_str());
  require(scaling != RopeScaling::dynamic || (original_max_position > 0 && factor >= 1 && rotary >= 4),
          "config.json: rope scaling 'dynamic' needs max_position_embeddings > 0, factor >= 1 and a head_dim of at "
          "least 4");
  require(scaling != RopeScaling::yarn || (original_max_position > 0 && beta_slow > 0 && beta_fast >= beta_slow &&
                                           theta > 1 && attention_factor > 0),
          "config.json: rope scaling 'yarn' needs original_max_position_embeddings > 0, rope_theta > 1, "
          "0 < beta_slow <= beta_fast and attention_factor > 0");
  require(scaling != RopeScaling::llama3 ||
              (original_max_position > 0 && low_frequency_factor > 0 && high_frequency_factor > low_frequency_factor),
          "config.json: rope scaling 'llama3' needs original_max_position_embeddings > 0 and "
          "0 < low_freq_factor < high_freq_factor");
  require(span >= 0 && span <= 1 << 10, "rope: the span of exponents is beyond a head");
  require(positive(attention_factor), "config.json: the rope's attention_factor must be positive");
}

std::vector<double> rope_frequencies(const RopeSpec& rope) {
  const int half = rope.rotary / 2;
  const int span = rope.span == 0 ? rope.rotary : rope.span;
  const double theta = rope.scaling == RopeScaling::dynamic ? dynamic_theta(rope) : rope.theta;
  std::vector<double> frequency(half);
  for (int i = 0; i < half; i++) {
    frequency[i] = std::pow(theta, -2.0 * i / span);
    if (!rope.factors.empty()) frequency[i] /= rope.factors[i];
  }
  if (rope.scaling == RopeScaling::linear) {
    for (double& f : frequency) f /= rope.factor;
  } else if (rope.scaling == RopeScaling::yarn) {
    scale_yarn(rope, frequency);
  } else if (rope.scaling == RopeScaling::llama3) {
    // Long wavelengths are stretched by `factor`, short ones kept, those between blended.
    const double original = rope.original_max_position;
    const double longest_kept = original / rope.high_frequency_factor;
    const double shortest_stretched = original / rope.low_frequency_factor;
    for (double& f : frequency) {
      const double wavelength = 2.0 * std::numbers::pi / f;
      if (wavelength > shortest_stretched) {
        f /= rope.factor;
      } else if (wavelength > longest_kept) {
        const double smooth = (original / wavelength - rope.low_frequency_factor) /
                              (rope.high_frequency_factor - rope.low_frequency_factor);
        f = (1.0 - smooth) * f / rope.factor + smooth * f;
      }
    }
  }
  return frequency;
}

std::vector<float> rope_table(const RopeSpec& rope, int begin, int end) {
  const std::vector<double> frequency = rope_frequencies(rope);
  const int half = rope.head_dim / 2, turning = rope.rotary / 2;
  std::vector<float> table(static_cast<size_t>(end - begin) * rope.head_dim, 0.0f);
  for (int position = begin; position < end; position++) {
    float* row = table.data() + static_cast<size_t>(position - begin) * rope.head_dim;
    for (int i = 0; i < turning; i++) {
      const double angle = position * frequency[i];
      row[i] = static_cast<float>(rope.attention_factor * std::cos(angle));
      row[half + i] = static_cast<float>(rope.attention_factor * std::sin(angle));
    }
    for (int i = turning; i < half; i++) row[i] = 1.0f;
  }
  return table;
}

}  // namespace millrace
