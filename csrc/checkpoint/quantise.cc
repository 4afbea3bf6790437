#include "checkpoint/quantise.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "core/half.h"
#include "core/memory.h"

namespace millrace {

namespace {

constexpr int kGroup = 128;
constexpr int kCandidates = 9;
constexpr float kLargestHalf = 65504.0f;

// Four lanes, what every processor of either architecture has. Compilers leave these loops scalar otherwise.
using Lanes = float __attribute__((vector_size(16)));
constexpr int kLanes = 4;

inline Lanes load_lanes(const float* from) {
  Lanes lanes;
  std::memcpy(&lanes, from, sizeof(lanes));
  return lanes;
}

inline Lanes all(float value) {
  return Lanes{value, value, value, value};
}

// Codes less their zero: [-8, 7] or [-128, 127].
struct LevelRange {
  float least, most;
};
constexpr LevelRange kLevels4{-8.0f, 7.0f}, kLevels8{-128.0f, 127.0f};

// The nearest of them, ties to even: adding 1.5 * 2^23 rounds.
inline Lanes level(Lanes x, LevelRange levels) {
  const Lanes magic = all(12582912.0f), least = all(levels.least), most = all(levels.most);
  x = x < least ? least : x;
  x = x > most ? most : x;
  return (x + magic) - magic;
}

inline float total(Lanes lanes) {
  return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
}

// A group's weights, and the best scale so far.
class Fitting {
 public:
  Fitting(const float* weights, const float* importance, int count) : count_(count) {
    std::copy_n(weights, count, w_);
    std::copy_n(importance, count, v_);
  }

  // Levels of weights times `inverse`, with the scale of the least error: whether that is the best yet.
  bool attempt(float inverse, LevelRange levels) {
    if (!std::isfinite(inverse)) return false;  // weights near the smallest there are
    Lanes wq[2] = {}, qq[2] = {};               // two chains each
    for (int i = 0; i < count_; i += 2 * kLanes) {
      for (int j = 0; j < 2; j++) {
        const Lanes x = load_lanes(w_ + i + j * kLanes);
        const Lanes q = level(x * all(inverse), levels), vq = load_lanes(v_ + i + j * kLanes) * q;
        wq[j] += vq * x;
        qq[j] += vq * q;
      }
    }
    const float a = total(wq[0] + wq[1]), b = total(qq[0] + qq[1]);
    // The error is sum(v w^2) - a^2 / b. A norm of zeros weighs nothing: then any scale does.
    if (!(b > 0.0f && a * (a / b) > best_)) return false;
    best_ = a * (a / b);
    scale_ = a / b;
    return true;
  }

  // `otherwise`: where no attempt had a result.
  uint16_t scale(float otherwise) const {
    return float_to_half(std::clamp(best_ < 0.0f ? otherwise : scale_, -kLargestHalf, kLargestHalf));
  }

 private:
  // Zeros to whole lanes: they change no sum.
  float w_[kGroup] = {}, v_[kGroup] = {};
  int count_;
  float best_ = -1.0f, scale_ = 0.0f;
};

}  // namespace

uint16_t fit_q4_scale(const float* weights, const float* importance, int count) {
  float largest = 0.0f;
  for (int i = 0; i < count; i++) {
    if (std::fabs(weights[i]) > std::fabs(largest)) largest = weights[i];
  }
  if (largest == 0.0f) return 0;
  Fitting fitting(weights, importance, count);
  for (int c = 0; c < kCandidates; c++) {
    fitting.attempt((-7.2f - 0.2f * static_cast<float>(c)) / largest, kLevels4);
  }
  return fitting.scale(largest / -8.0f);
}

Q4Fit fit_q4_with_zero(const float* weights, const float* importance, int count) {
  float least = 0.0f, most = 0.0f;
  for (int i = 0; i < count; i++) {
    least = std::min(least, weights[i]);
    most = std::max(most, weights[i]);
  }
  const float range = most - least;
  if (range == 0.0f || !std::isfinite(range)) {
    return {range == 0.0f ? uint16_t{0} : fit_q4_scale(weights, importance, count), 8};
  }
  Fitting fitting(weights, importance, count);
  const float middle = std::clamp(std::nearbyint(15.0f * (-least / range)), 0.0f, 15.0f);
  int zero = static_cast<int>(middle);
  for (int shrunk = 0; shrunk < 6; shrunk++) {
    const float inverse = 15.0f / (range * (1.0f - 0.05f * static_cast<float>(shrunk)));
    for (int other = -1; other <= 1; other++) {
      const float candidate = middle + static_cast<float>(other);
      if (candidate < 0.0f || candidate > 15.0f) continue;
      if (fitting.attempt(inverse, {-candidate, 15.0f - candidate})) zero = static_cast<int>(candidate);
    }
  }
  return {fitting.scale(range / 15.0f), zero};
}

uint16_t fit_q8_scale(const float* weights, int count) {
  float most = 0.0f, least = 0.0f;
  for (int i = 0; i < count; i++) {
    most = std::max(most, weights[i]);
    least = std::min(least, weights[i]);
  }
  const float up = std::max(most / kLevels8.most, least / kLevels8.least);
  const float down = std::max(-least / kLevels8.most, most / -kLevels8.least);  // the negative scale's size
  const float scale = up <= down ? up : -down;
  return float_to_half(std::clamp(scale, -kLargestHalf, kLargestHalf));
}

QuantisingReader::QuantisingReader(const Checkpoint& checkpoint, const LinearSource& source, const VectorSource& norm,
                                   int n, int k)
    : LinearReader(n, k),
      plain_(checkpoint, source, n, k),
      bits_(source.make_bits),
      importance_(static_cast<size_t>(k), 1.0f),
      features_(n) {
  if ((bits_ != 4 && bits_ != 8) || k % 8 != 0) {
    throw Error(code::kInvalidArgument, format("%d bits of %d input features", bits_, k),
                "make them 4 or 8 bits, of a multiple of 8 input features");
  }
  if (const int group = source.make_group; group != 0 && group != 32 && group != 64 && group != kGroup) {
    throw Error(code::kInvalidArgument, format("4 bits in groups of %d", group),
                "make them in groups of 32, 64 or 128");
  }
  if (!norm.tensor.empty()) {
    read_floats(checkpoint, require_floats(checkpoint, norm.tensor, k), importance_.data());
    for (float& value : importance_) {
      if (norm.plus_one) value += 1.0f;
      value *= value;
    }
  }
  k_stored_ = static_cast<int>(round_up(static_cast<size_t>(k), kTileK));
  code_.type = bits_ == 4 ? WeightType::q4 : WeightType::q8;
  code_.scale = ScaleType::f16;
  code_.group = bits_ == 8 ? groups_of(code_.type).most : source.make_group == 0 ? kGroup : source.make_group;
  code_.zeros = bits_ == 4 && code_.group == 32;
  while (bits_ == 4 && k_stored_ % code_.group != 0) code_.group /= 2;
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

void QuantisingReader::read_group(int group, int column, int count, GroupField* out) const {
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
    Feature& feature = features_[static_cast<size_t>(column + c)];
    feature.group = group;
    const float* importance = importance_.data() + begin;
    Q4Fit fit{0, code_.traits().zero};
    if (code_.zeros) {
      fit = fit_q4_with_zero(weights, importance, width);
    } else {
      fit.scale = bits_ == 4 ? fit_q4_scale(weights, importance, width) : fit_q8_scale(weights, width);
    }
    feature.scale = half_to_float(fit.scale);
    feature.zero = fit.zero;
    out[c] = {fit.scale, static_cast<uint16_t>(fit.zero)};
  }
}

// Levels of input features [begin, end) of one output feature, within the group whose scale was read last; those beyond
// k are zero.
void QuantisingReader::quantise(int n, int begin, int end, uint8_t* levels) const {
  Feature& feature = features_[static_cast<size_t>(n)];
  if ((end - 1) / code_.group != begin / code_.group || feature.group != begin / code_.group) {
    throw Error(code::kInternal, "weights of a group whose scales were not read", "report this as a bug");
  }
  const int present = std::clamp(k_ - begin, 0, end - begin), zero = feature.zero;
  const float all_levels = bits_ == 4 ? 15.0f : 255.0f;
  const LevelRange range{static_cast<float>(-zero), all_levels - static_cast<float>(zero)};
  float weights[kGroup] = {}, importance[kGroup] = {};  // zeros fill whole lanes and change no sum
  load(n, begin, present, weights);
  std::copy_n(importance_.data() + begin, present, importance);
  const float scale = feature.scale, inverse = scale == 0.0f ? 0.0f : 1.0f / scale;
  Lanes sums[4] = {};
  for (int i = 0; i < end - begin; i += kLanes) {
    const Lanes w = load_lanes(weights + i), v = load_lanes(importance + i);
    const Lanes q = level(w * all(inverse), range), e = w - all(scale) * q;
    for (int lane = 0; lane < kLanes; lane++) {
      levels[i + lane] = static_cast<uint8_t>(static_cast<int32_t>(q[lane]) + zero);
    }
    sums[0] += e * e;
    sums[1] += w * w;
    sums[2] += v * e * e;
    sums[3] += v * w * w;
  }
  for (size_t i = 0; i < feature.sums.size(); i++) feature.sums[i] += total(sums[i]);
}

void QuantisingReader::read_words(int begin, int end, int column, int count, uint32_t* out) const {
  for (int c = 0; c < count; c++) {
    uint8_t levels[kGroup];
    quantise(column + c, 8 * begin, 8 * end, levels);
    for (int r = begin; r < end; r++) {
      uint32_t word = 0;
      for (int i = 0; i < 8; i++) word |= static_cast<uint32_t>(levels[8 * (r - begin) + i]) << (4 * i);
      out[(r - begin) * kTileN + c] = word;
    }
  }
}

void QuantisingReader::read_levels(int begin, int end, int column, int count, uint8_t* out) const {
  for (int c = 0; c < count; c++) {
    uint8_t levels[kGroup];
    quantise(column + c, kTileK * begin, kTileK * end, levels);
    for (int s = begin; s < end; s++) {
      std::memcpy(out + (static_cast<size_t>(s - begin) * kTileN + static_cast<size_t>(c)) * kTileK,
                  levels + (s - begin) * kTileK, kTileK);
    }
  }
}

ErrorSums QuantisingReader::errors() const {
  ErrorSums sums{};
  for (const Feature& feature : features_) {
    for (size_t i = 0; i < sums.size(); i++) sums[i] += feature.sums[i];
  }
  return sums;
}

QuantisationError error_of(const ErrorSums& sums) {
  const auto relative = [](double error, double whole) { return whole > 0 ? std::sqrt(error / whole) : 0.0; };
  return {sums[1] > 0, relative(sums[0], sums[1]), relative(sums[2], sums[3])};
}

}  // namespace millrace
