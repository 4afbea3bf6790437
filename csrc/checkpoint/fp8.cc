#include "checkpoint/fp8.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "checkpoint/messages.h"
#include "core/memory.h"

namespace millrace {

namespace {

constexpr bool is_nan(uint8_t e4m3) {
  return (e4m3 & 0x7f) == 0x7f;
}

int ceil_div(int a, int b) {
  return (a + b - 1) / b;
}

}  // namespace

Fp8Reader::Fp8Reader(const Checkpoint& checkpoint, const LinearSource& source, int n, int k)
    : LinearReader(n, k),
      checkpoint_(checkpoint),
      weight_(require_tensor(checkpoint, source.weight, {DType::f8_e4m3}, {n, k})),
      data_(checkpoint.data(weight_)) {
  code_.type = WeightType::fp8;
  code_.group = groups_of(code_.type).most;
  k_stored_ = static_cast<int>(round_up(static_cast<size_t>(k), kTileK));

  const Tensor& scales = checkpoint.require(source.scales);
  size_t count = 1;
  for (const int64_t extent : scales.shape) count *= static_cast<size_t>(extent);
  if (count == 1) {
    block_rows_ = n;
    block_features_ = k;
  } else if (source.block_rows <= 1 && count == static_cast<size_t>(n)) {
    block_rows_ = 1;
    block_features_ = k;
  } else {
    block_rows_ = source.block_rows;
    block_features_ = source.group_size;
    if (block_rows_ < 1 || block_features_ < 1 || (block_features_ % code_.group != 0 && block_features_ < k)) {
      throw_unsupported(format("%s: blocks of %d x %d are not supported, expected a multiple of %d input features",
                               describe(checkpoint, weight_).c_str(), block_rows_, block_features_, code_.group));
    }
  }
  columns_ = ceil_div(k, block_features_);
  const int rows = ceil_div(n, block_rows_);
  const std::initializer_list<DType> types = {DType::f32, DType::bf16, DType::f16};
  if (count == 1 && scales.shape.empty()) {
    scales_ = &require_tensor(checkpoint, source.scales, types, {});
  } else if (scales.shape.size() == 1) {
    scales_ = &require_tensor(checkpoint, source.scales, types, {count == 1 ? 1 : n});
  } else {
    scales_ = &require_tensor(checkpoint, source.scales, types, {rows, columns_});
  }
  values_.resize(count);
  read_floats(checkpoint, *scales_, values_.data());
  tensors_ = {&weight_, scales_};
}

void Fp8Reader::read_levels(int begin, int end, int column, int count, uint8_t* out) const {
  for (int c = 0; c < count; c++) {
    const std::byte* row = data_ + static_cast<size_t>(column + c) * static_cast<size_t>(k_);
    for (int s = begin; s < end; s++) {
      uint8_t* to = out + (static_cast<size_t>(s - begin) * kTileN + static_cast<size_t>(c)) * kTileK;
      const int present = std::min(kTileK, k_ - s * kTileK);
      std::memcpy(to, row + s * kTileK, static_cast<size_t>(present));
      for (int i = 0; i < present; i++) {
        if (!is_nan(to[i])) continue;
        throw_invalid(format("%s: expected finite weights, found NaN at [%d, %d]",
                             describe(checkpoint_, weight_).c_str(), column + c, s * kTileK + i));
      }
    }
  }
}

void Fp8Reader::read_group(int group, int column, int count, GroupField* out) const {
  const size_t place = static_cast<size_t>(group * code_.group / block_features_);
  for (int c = 0; c < count; c++) {
    const size_t row = static_cast<size_t>((column + c) / block_rows_);
    out[c] = {std::bit_cast<uint32_t>(values_[row * static_cast<size_t>(columns_) + place]), 0};
  }
}

E2m1Reader::E2m1Reader(const Checkpoint& checkpoint, const LinearSource& source, int n, int k, WeightType type,
                       DType scales)
    : LinearReader(n, k), checkpoint_(checkpoint) {
  code_.type = type;
  code_.group = groups_of(type).most;
  const Tensor& weight = checkpoint.require(source.weight);
  if (k % code_.group != 0) {
    throw_unsupported(format("%s: expected a multiple of %d input features, by which %s scales them, found %d",
                             describe(checkpoint, weight).c_str(), code_.group, name_of(type), k));
  }
  // gpt-oss has the bytes of a scale in a dimension of their own.
  if (weight.shape.size() == 3) {
    require_tensor(checkpoint, source.weight, {DType::u8}, {n, k / code_.group, code_.group / 2});
  } else {
    require_tensor(checkpoint, source.weight, {DType::u8}, {n, k / 2});
  }
  scales_ = &require_tensor(checkpoint, source.scales, {scales}, {n, k / code_.group});
  k_stored_ = k;
  data_ = checkpoint.data(weight);
  scales_data_ = checkpoint.data(*scales_);
  tensors_ = {&weight, scales_};
}

void E2m1Reader::read_levels(int begin, int end, int column, int count, uint8_t* out) const {
  for (int c = 0; c < count; c++) {
    const std::byte* row = data_ + static_cast<size_t>(column + c) * static_cast<size_t>(k_ / 2);
    for (int s = begin; s < end; s++) {
      uint8_t* to = out + (static_cast<size_t>(s - begin) * kTileN + static_cast<size_t>(c)) * kTileK;
      for (int i = 0; i < kTileK / 2; i++) {
        const auto two = static_cast<uint8_t>(row[s * kTileK / 2 + i]);
        to[2 * i] = two & 15;
        to[2 * i + 1] = two >> 4;
      }
    }
  }
}

void E2m1Reader::read_group(int group, int column, int count, GroupField* out) const {
  const size_t stride = static_cast<size_t>(k_ / code_.group);
  const bool e8m0 = code_.traits().scales == Scales::e8m0;
  for (int c = 0; c < count; c++) {
    const auto scale = static_cast<uint8_t>(scales_data_[static_cast<size_t>(column + c) * stride + group]);
    if (e8m0 ? scale == 255 : is_nan(scale)) {
      throw_invalid(format("%s: expected finite scales, found 0x%02x at [%d, %d]",
                           describe(checkpoint_, *scales_).c_str(), scale, column + c, group));
    }
    out[c] = {scale, 0};
  }
}

Nvfp4Reader::Nvfp4Reader(const Checkpoint& checkpoint, const LinearSource& source, int n, int k)
    : E2m1Reader(checkpoint, source, n, k, WeightType::nvfp4, DType::f8_e4m3) {
  const Tensor& whole = checkpoint.require(source.global_scale);
  if (whole.shape.empty()) {
    require_tensor(checkpoint, source.global_scale, {DType::f32}, {});
  } else {
    require_tensor(checkpoint, source.global_scale, {DType::f32}, {1});
  }
  float value = 0.0f;
  read_floats(checkpoint, whole, &value);
  if (source.global_divides) value = 1.0f / value;
  if (!std::isfinite(value)) {
    throw_invalid(format("%s: expected a scale that is not 0", describe(checkpoint, whole).c_str()));
  }
  half_ = 0.5f * value;
  tensors_.push_back(&whole);
}

void Nvfp4Reader::read_span(int, int, int count, SpanField* out) const {
  for (int c = 0; c < count; c++) out[c] = {std::bit_cast<uint32_t>(half_), 0};
}

Mxfp4Reader::Mxfp4Reader(const Checkpoint& checkpoint, const LinearSource& source, int n, int k)
    : E2m1Reader(checkpoint, source, n, k, WeightType::mxfp4, DType::u8) {}

}  // namespace millrace
