#include "checkpoint/compressed_tensors.h"

#include <algorithm>
#include <cstring>

#include "checkpoint/messages.h"

namespace millrace {

CompressedTensorsReader::CompressedTensorsReader(const Checkpoint& checkpoint, const LinearSource& source, int n, int k)
    : GroupedReader(checkpoint, source, n, k, "compressed-tensors") {
  check_shape(source.shape);
  // Of 8 bits the format int-quantized has the numbers themselves.
  plain_ = bits() == 8 && checkpoint.require(source.weight).dtype == DType::i8;
  const Tensor& weight = plain_ ? require_tensor(checkpoint, source.weight, {DType::i8}, {n, k})
                                : require_tensor(checkpoint, source.weight, {DType::i32}, {n, k / per_word()});
  scales_ = &require_tensor(checkpoint, source.scales, {DType::f16, DType::bf16}, {n, groups()});
  const Tensor* zeros =
      source.zeros.empty() && source.symmetric
          ? nullptr
          : &require_tensor(checkpoint, source.zeros, {DType::i32}, {(n + per_word() - 1) / per_word(), groups()});
  const Tensor* g_idx = find_groups(source.g_idx);
  tensors_ = {&weight, scales_};
  if (zeros != nullptr) tensors_.push_back(zeros);
  if (g_idx != nullptr) tensors_.push_back(g_idx);

  weight_data_ = checkpoint.data(weight);
  scales_data_ = checkpoint.data(*scales_);
  if (zeros != nullptr) zeros_data_ = checkpoint.data(*zeros);
  code_.scale = scales_->dtype == DType::bf16 ? ScaleType::bf16 : ScaleType::f16;
  order_features(read_groups(g_idx), g_idx == nullptr ? weight : *g_idx);
  // Zeros beyond n are padding, of which the format does not say what it holds.
  if (zeros != nullptr) read_zeros(*zeros, source.symmetric, 0, n % per_word());
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
      out[static_cast<size_t>(r - begin) * kTileN + c] = load_element<uint32_t>(weight_data_, row + r);
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
    const auto scale = load_element<uint16_t>(scales_data_, n * stride + g);
    if (!scale_is_finite(scale)) throw_scale(*scales_, scale, n, g);
    out[c] = {scale, static_cast<uint16_t>(code_.traits().zero)};
    if (code_.zeros) out[c].offset = zero_at(load_element<uint32_t>(zeros_data_, n / per * stride + g), n % per);
  }
}

}  // namespace millrace
