#include "checkpoint/quantise.h"

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "core/error.h"
#include "core/half.h"
#include "core/memory.h"

namespace millrace {

namespace {

constexpr int kGroup = 128;
constexpr int kLanes = 16;
constexpr int kCandidates = 9;
constexpr float kLargestHalf = 65504.0f;

// The nearest integer in [-8, 7], ties to even, for a compiler to vectorise: adding 1.5 * 2^23 rounds.
inline float level(float x) {
  constexpr float kMagic = 12582912.0f;
  x = x < -8.0f ? -8.0f : x;
  x = x > 7.0f ? 7.0f : x;
  return (x + kMagic) - kMagic;
}

float total(const float lanes[kLanes]) {
  float sum = 0.0f;
  for (int i = 0; i < kLanes; i++) sum += lanes[i];
  return sum;
}

}  // namespace

uint16_t fit_q4_scale(const float* weights, const float* importance, int count) {
  // Padded with zeros to whole lanes: they change no sum.
  float w[kGroup] = {}, v[kGroup] = {};
  float largest = 0.0f;
  for (int i = 0; i < count; i++) {
    w[i] = weights[i];
    v[i] = importance[i];
    if (std::fabs(w[i]) > std::fabs(largest)) largest = w[i];
  }
  if (largest == 0.0f) return 0;
  float best = -1.0f, scale = 0.0f;
  for (int c = 0; c < kCandidates; c++) {
    const float inverse = (-7.2f - 0.2f * static_cast<float>(c)) / largest;
    if (!std::isfinite(inverse)) continue;  // weights near the smallest there are
    float wq[kLanes] = {}, qq[kLanes] = {};
    for (int i = 0; i < kGroup; i += kLanes) {
      for (int lane = 0; lane < kLanes; lane++) {
        const float q = level(w[i + lane] * inverse);
        wq[lane] += v[i + lane] * w[i + lane] * q;
        qq[lane] += v[i + lane] * q * q;
      }
    }
    const float a = total(wq), b = total(qq);
    // The error is sum(v w^2) - a^2 / b. A norm of zeros weighs nothing: then any scale does.
    if (b > 0.0f && a * (a / b) > best) {
      best = a * (a / b);
      scale = a / b;
    }
  }
  if (best < 0.0f) scale = largest / -8.0f;
  return float_to_half(std::clamp(scale, -kLargestHalf, kLargestHalf));
}

QuantisingReader::QuantisingReader(const Checkpoint& checkpoint, const LinearSource& source, const std::string& norm,
                                   int n, int k)
    : LinearReader(n, k), plain_(checkpoint, source, n, k), importance_(static_cast<size_t>(k)), features_(n) {
  if (k % 8 != 0) {
    throw Error(code::kInvalidArgument, format("a head of %d input features cannot be made 4 bits", k),
                "load it as it is: 4 bits need a hidden size that is a multiple of 8");
  }
  read_floats(checkpoint, require_floats(checkpoint, norm, k), importance_.data());
  for (float& value : importance_) value *= value;
  k_stored_ = static_cast<int>(round_up(static_cast<size_t>(k), kTileK));
  code_.type = WeightType::q4;
  code_.scale = ScaleType::f16;
  code_.group = kGroup;
  while (k_stored_ % code_.group != 0) code_.group /= 2;
  tensors_ = plain_.tensors();
}

void QuantisingReader::load(int row, int begin, int count, float* out) const {
  const std::byte* data = plain_.row(row);
  switch (plain_.code().type) {
    case WeightType::f16:
      for (int i = 0; i < count; i++) out[i] = half_to_float(load_element<uint16_t>(data, begin + i));
      break;
    case WeightType::bf16:
      for (int i = 0; i < count; i++) out[i] = bfloat16_to_float(load_element<uint16_t>(data, begin + i));
      break;
    default:
      for (int i = 0; i < count; i++) out[i] = load_element<float>(data, begin + i);
  }
}

void QuantisingReader::read_group(int group, int column, int count, uint16_t* scales, uint8_t* zeros) const {
  const int begin = group * code_.group, width = std::min(code_.group, k_ - begin);
  float weights[kGroup];
  for (int c = 0; c < count; c++) {
    load(column + c, begin, width, weights);
    float largest = 0.0f;
    bool finite = true;
    for (int i = 0; i < width; i++) {
      largest = std::max(largest, std::fabs(weights[i]));
      finite &= std::fabs(weights[i]) <= FLT_MAX;
    }
    if (!finite) plain_.refuse_not_finite(column + c, column + c + 1);
    scales[c] = fit_q4_scale(weights, importance_.data() + begin, width);
    zeros[c] = 8;
    Feature& feature = features_[static_cast<size_t>(column + c)];
    feature.group = group;
    feature.scale = half_to_float(scales[c]);
  }
}

void QuantisingReader::read_words(int begin, int end, int column, int count, uint32_t* out) const {
  const int group = 8 * begin / code_.group, width = 8 * (end - begin);
  if ((8 * end - 1) / code_.group != group || features_[static_cast<size_t>(column)].group != group) {
    throw Error(code::kInternal, "words of a group whose scales were not read", "report this as a bug");
  }
  float weights[kGroup];
  for (int c = 0; c < count; c++) {
    Feature& feature = features_[static_cast<size_t>(column + c)];
    load(column + c, 8 * begin, width, weights);
    const float inverse = feature.scale == 0.0f ? 0.0f : 1.0f / feature.scale;
    for (int r = begin; r < end; r++) {
      uint32_t word = 0;
      for (int i = 0; i < 8; i++) {
        const float w = weights[8 * (r - begin) + i];
        const float q = level(w * inverse);
        word |= static_cast<uint32_t>(static_cast<int>(q) + 8) << (4 * i);
        const double e = static_cast<double>(w) - static_cast<double>(feature.scale) * q;
        const double v = importance_[static_cast<size_t>(8 * r + i)];
        const double w2 = static_cast<double>(w) * w;
        feature.sums[0] += e * e;
        feature.sums[1] += w2;
        feature.sums[2] += v * e * e;
        feature.sums[3] += v * w2;
      }
      out[(r - begin) * kTileN + c] = word;
    }
  }
}

QuantisationError QuantisingReader::error() const {
  std::array<double, 4> sums{};
  for (const Feature& feature : features_) {
    for (size_t i = 0; i < sums.size(); i++) sums[i] += feature.sums[i];
  }
  const auto relative = [](double error, double whole) { return whole > 0 ? std::sqrt(error / whole) : 0.0; };
  return {true, relative(sums[0], sums[1]), relative(sums[2], sums[3])};
}

}  // namespace millrace
