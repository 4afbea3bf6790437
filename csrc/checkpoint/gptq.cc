#include "checkpoint/gptq.h"

#include <algorithm>
#include <cstring>

#include "checkpoint/messages.h"

namespace millrace {

namespace {

template <int kCount>
void copy_rows(const std::byte* source, size_t source_stride, int rows, uint32_t* out) {
  for (int r = 0; r < rows; r++) std::memcpy(out + r * kTileN, source + r * source_stride, kCount * sizeof(uint32_t));
}

}  // namespace

GptqReader::GptqReader(const Checkpoint& checkpoint, const LinearSource& source, int n, int k)
    : GroupedReader(checkpoint, source, n, k, "GPTQ") {
  if (n % per_word() != 0) {
    throw_invalid(format("%s: GPTQ packs output features by %d, found %d",
                         describe(checkpoint, checkpoint.require(source.weight)).c_str(), per_word(), n));
  }
  const Tensor& weight = require_tensor(checkpoint, source.weight, {DType::i32}, {k / per_word(), n});
  scales_ = &require_tensor(checkpoint, source.scales, {DType::f16, DType::bf16}, {groups(), n});
  const Tensor* zeros = source.zeros.empty() && source.symmetric
                            ? nullptr
                            : &require_tensor(checkpoint, source.zeros, {DType::i32}, {groups(), n / per_word()});
  const Tensor* g_idx = source.g_idx.empty() ? nullptr : checkpoint.find(source.g_idx);
  if (g_idx != nullptr) require_tensor(checkpoint, source.g_idx, {DType::i32}, {k});
  tensors_ = {&weight, scales_};
  if (zeros != nullptr) tensors_.push_back(zeros);
  if (g_idx != nullptr) tensors_.push_back(g_idx);

  weight_data_ = checkpoint.data(weight);
  scales_data_ = checkpoint.data(*scales_);
  if (zeros != nullptr) zeros_data_ = checkpoint.data(*zeros);
  zero_offset_ = !source.zeros_minus_one ? 0 : bits() == 4 ? 0x11111111u : 0x01010101u;
  code_.scale = scales_->dtype == DType::bf16 ? ScaleType::bf16 : ScaleType::f16;
  order_features(read_groups(g_idx), g_idx == nullptr ? weight : *g_idx);
  if (zeros != nullptr) read_zeros(*zeros, source.symmetric, zero_offset_);
}

void GptqReader::read_words(int begin, int end, int column, int count, uint32_t* out) const {
  const size_t stride = static_cast<size_t>(n_) * sizeof(uint32_t);
  const std::byte* source =
      weight_data_ + static_cast<size_t>(begin) * stride + static_cast<size_t>(column) * sizeof(uint32_t);
  const int rows = end - begin;
  // The two usual counts (a whole row block, and a run of interleaved features) without a call a row.
  if (count == kTileN) {
    copy_rows<kTileN>(source, stride, rows, out);
  } else if (count == 8) {
    copy_rows<8>(source, stride, rows, out);
  } else {
    for (int r = 0; r < rows; r++) {
      std::memcpy(out + static_cast<size_t>(r) * kTileN, source + r * stride,
                  static_cast<size_t>(count) * sizeof(uint32_t));
    }
  }
}

void GptqReader::read_levels(int begin, int end, int column, int count, uint8_t* out) const {
  const size_t stride = static_cast<size_t>(n_);
  for (int word = 4 * begin; word < std::min(4 * end, k_ / 4); word++) {
    uint8_t* to = out + static_cast<size_t>(word / 4 - begin) * kTileN * kTileK + word % 4 * 4;
    for (int c = 0; c < count; c++, to += kTileK) {
      const auto four = load_element<uint32_t>(weight_data_, static_cast<size_t>(word) * stride + column + c);
      std::memcpy(to, &four, sizeof(four));
    }
  }
}

void GptqReader::read_group(int group, int column, int count, GroupField* out) const {
  const size_t g = static_cast<size_t>(group_of_stored(group));
  for (int c = 0; c < count; c++) {
    const size_t at = g * n_ + column + c;
    const auto scale = load_element<uint16_t>(scales_data_, at);
    if (!scale_is_finite(scale)) throw_scale(*scales_, scale, g, static_cast<size_t>(column + c));
    out[c] = {scale, static_cast<uint16_t>(code_.traits().zero)};
    if (!code_.zeros) continue;
    // The addition carries from one zero to the next: the exact inverse of an export that subtracts from the whole
    // word.
    const size_t per = static_cast<size_t>(per_word());
    out[c].offset = zero_at(load_element<uint32_t>(zeros_data_, at / per) + zero_offset_, at % per);
  }
}

}  // namespace millrace
