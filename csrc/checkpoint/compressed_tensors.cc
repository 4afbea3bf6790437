#include "checkpoint/compressed_tensors.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "checkpoint/messages.h"
#include "core/half.h"

namespace millrace {

CompressedTensorsReader::CompressedTensorsReader(const Checkpoint& checkpoint, const LinearSource& source, int n, int k)
    : GroupedReader(checkpoint, source, n, k, "compressed-tensors") {
  check_shape(source.shape);
  plain_ = checkpoint.require(source.weight).dtype == DType::i8;
  const Tensor& weight = plain_ ? require_tensor(checkpoint, source.weight, {DType::i8}, {n, k})
                                : require_tensor(checkpoint, source.weight, {DType::i32}, {n, k / per_word()});
  open_scales(source.scales);
  const Tensor* zeros = open_zeros(source);
  const Tensor* g_idx = find_groups(source.g_idx);
  tensors_ = {&weight, scales_};
  if (zeros != nullptr) tensors_.push_back(zeros);
  if (g_idx != nullptr) tensors_.push_back(g_idx);

  weight_data_ = checkpoint.data(weight);
  if (zeros != nullptr) zeros_data_ = checkpoint.data(*zeros);
  order_features(read_groups(g_idx), g_idx == nullptr ? weight : *g_idx);
  if (zeros == nullptr) return;
  // Zeros beyond n are padding, of which the format does not say what it holds.
  if (!plain_) read_zeros(*zeros, source.symmetric, 0, n % per_word());
  for (size_t i = 0; plain_ && i < zeros->bytes && !code_.zeros; i++) code_.zeros = zeros_data_[i] != std::byte{0};
}

void CompressedTensorsReader::open_scales(const std::string& name) {
  const std::initializer_list<DType> types = {DType::f16, DType::bf16, DType::f32};
  const Tensor& scales = checkpoint_.require(name);
  one_scale_ = scales.shape.empty() || (scales.shape.size() == 1 && scales.shape[0] == 1);
  if (scales.shape.empty()) {
    scales_ = &require_tensor(checkpoint_, name, types, {});
  } else if (one_scale_) {
    scales_ = &require_tensor(checkpoint_, name, types, {1});
  } else {
    scales_ = &require_tensor(checkpoint_, name, types, {n_, groups()});
  }
  scales_data_ = checkpoint_.data(*scales_);
  code_.scale = scales_->dtype == DType::bf16 ? ScaleType::bf16 : ScaleType::f16;
  if (scales_->dtype != DType::f32) return;
  std::vector<float> values(scales_->bytes / sizeof(float));
  read_floats(checkpoint_, *scales_, values.data());
  const bool halves = std::all_of(values.begin(), values.end(), [](float value) {
    const float size = std::fabs(value);
    return size == 0.0f || (size >= 0x1p-14f && size <= 65504.0f);
  });
  code_.scale = halves ? ScaleType::f16 : ScaleType::bf16;
  rounded_.reserve(values.size());
  for (const float value : values) rounded_.push_back(halves ? float_to_half(value) : float_to_bfloat16(value));
}

const Tensor* CompressedTensorsReader::open_zeros(const LinearSource& source) {
  if (source.zeros.empty() && source.symmetric) return nullptr;
  if (!plain_) {
    return &require_tensor(checkpoint_, source.zeros, {DType::i32}, {(n_ + per_word() - 1) / per_word(), groups()});
  }
  return &require_tensor(checkpoint_, source.zeros, {DType::i8}, {n_, groups()});
}

// What slabs write for the number at `index`.
uint8_t CompressedTensorsReader::level_at(const std::byte* data, size_t index) const {
  const int value = load_element<int8_t>(data, index), middle = code_.traits().zero;
  if (value >= -middle && value < middle) return static_cast<uint8_t>(value + middle);
  throw_invalid(format("%s: expected numbers of %d bits, from %d to %d, found %d at index %zu",
                       describe(checkpoint_, *tensors_.front()).c_str(), bits(), -middle, middle - 1, value, index));
}

// weight_shape repeats n and k, of which weight_packed only shows n and k rounded up.
void CompressedTensorsReader::check_shape(const std::string& name) const {
  if (name.empty()) return;
  const Tensor& shape = require_tensor(checkpoint_, name, {DType::i64, DType::i32}, {2});
  const std::byte* data = checkpoint_.data(shape);
  int64_t found[2];
  for (size_t i = 0; i < 2; i++) {
    found[i] = shape.dtype == DType::i64 ? load_element<int64_t>(data, i) : load_element<int32_t>(data, i);
  }
  const int64_t expected[2] = {n_, k_};
  if (found[0] == expected[0] && found[1] == expected[1]) return;
  throw_invalid(format("%s: expected the values %s, found %s", describe(checkpoint_, shape).c_str(),
                       shape_text(expected).c_str(), shape_text(found).c_str()));
}

// weight_g_idx, if it is there and in use: all -1 is the format's own "not initialised".
const Tensor* CompressedTensorsReader::find_groups(const std::string& name) const {
  const Tensor* g_idx = name.empty() ? nullptr : checkpoint_.find(name);
  if (g_idx == nullptr) return nullptr;
  require_tensor(checkpoint_, name, {DType::i32}, {k_});
  const std::byte* data = checkpoint_.data(*g_idx);
  for (size_t i = 0; i < static_cast<size_t>(k_); i++) {
    if (load_element<int32_t>(data, i) != -1) return g_idx;
  }
  return nullptr;
}

void CompressedTensorsReader::read_words(int begin, int end, int column, int count, uint32_t* out) const {
  const size_t stride = static_cast<size_t>(k_) / 8;
  for (int c = 0; c < count; c++) {
    const size_t row = static_cast<size_t>(column + c) * stride;
    for (int r = begin; r < end; r++) {
      uint32_t word = 0;
      for (size_t i = 0; plain_ && i < 8; i++) {
        word |= static_cast<uint32_t>(level_at(weight_data_, 8 * (row + static_cast<size_t>(r)) + i)) << (4 * i);
      }
      if (!plain_) word = load_element<uint32_t>(weight_data_, row + static_cast<size_t>(r));
      out[static_cast<size_t>(r - begin) * kTileN + c] = word;
    }
  }
}

void CompressedTensorsReader::read_levels(int begin, int end, int column, int count, uint8_t* out) const {
  for (int c = 0; c < count; c++) {
    const std::byte* row = weight_data_ + static_cast<size_t>(column + c) * static_cast<size_t>(k_);
    for (int s = begin; s < end; s++) {
      std::memcpy(out + (static_cast<size_t>(s - begin) * kTileN + static_cast<size_t>(c)) * kTileK, row + s * kTileK,
                  static_cast<size_t>(std::min(kTileK, k_ - s * kTileK)));
    }
    if (!plain_) continue;
    for (int s = begin; s < end; s++) {
      for (int i = 0; i < std::min(kTileK, k_ - s * kTileK); i++) {
        out[(static_cast<size_t>(s - begin) * kTileN + static_cast<size_t>(c)) * kTileK + i] ^= 0x80;
      }
    }
  }
}

void CompressedTensorsReader::read_group(int group, int column, int count, GroupField* out) const {
  const size_t g = static_cast<size_t>(group_of_stored(group)), stride = static_cast<size_t>(groups());
  const size_t per = static_cast<size_t>(per_word());
  for (int c = 0; c < count; c++) {
    const size_t n = static_cast<size_t>(column + c);
    const size_t at = one_scale_ ? 0 : n * stride + g;
    const uint16_t scale = rounded_.empty() ? load_element<uint16_t>(scales_data_, at) : rounded_[at];
    if (!scale_is_finite(scale)) throw_scale(*scales_, scale, n, g);
    out[c] = {scale, static_cast<uint16_t>(code_.traits().zero)};
    if (!code_.zeros) continue;
    out[c].offset = plain_ ? level_at(zeros_data_, n * stride + g)
                           : zero_at(load_element<uint32_t>(zeros_data_, n / per * stride + g), n % per);
  }
}

}  // namespace millrace
