#include "checkpoint/awq.h"

#include "checkpoint/messages.h"

namespace millrace {

namespace {

// Which output feature of its eight a nibble holds, and which nibble holds an output feature.
constexpr int kFeatureOf[8] = {0, 2, 4, 6, 1, 3, 5, 7};
constexpr int kNibbleOf[8] = {0, 4, 1, 5, 2, 6, 3, 7};

// Swaps the bits under `mask` of a << shift and b: one step of a transpose by halves.
inline void swap_bits(uint32_t& a, uint32_t& b, int shift, uint32_t mask) {
  const uint32_t t = ((a >> shift) ^ b) & mask;
  b ^= t;
  a ^= t << shift;
}

// Nibble i of word j becomes nibble j of word i (Warren, Hacker's Delight, 7-3, in nibbles).
inline void transpose_nibbles(uint32_t x[8]) {
  for (int i = 0; i < 4; i++) swap_bits(x[i], x[i + 4], 16, 0x0000ffffu);
  for (int i = 0; i < 8; i += i % 4 == 1 ? 3 : 1) swap_bits(x[i], x[i + 2], 8, 0x00ff00ffu);
  for (int i = 0; i < 8; i += 2) swap_bits(x[i], x[i + 1], 4, 0x0f0f0f0fu);
}

}  // namespace

AwqReader::AwqReader(const Checkpoint& checkpoint, const LinearSource& source, int n, int k)
    : GroupedReader(checkpoint, source, n, k, "AWQ") {
  if (n % 8 != 0) {
    throw_invalid(format("%s: AWQ packs output features by 8, found %d",
                         describe(checkpoint, checkpoint.require(source.weight)).c_str(), n));
  }
  const Tensor& weight = require_tensor(checkpoint, source.weight, {DType::i32}, {k, n / 8});
  scales_ = &require_tensor(checkpoint, source.scales, {DType::f16, DType::bf16}, {groups(), n});
  const Tensor* zeros = source.zeros.empty() && source.symmetric
                            ? nullptr
                            : &require_tensor(checkpoint, source.zeros, {DType::i32}, {groups(), n / 8});
  tensors_ = {&weight, scales_};
  if (zeros != nullptr) tensors_.push_back(zeros);

  weight_data_ = checkpoint.data(weight);
  scales_data_ = checkpoint.data(*scales_);
  if (zeros != nullptr) zeros_data_ = checkpoint.data(*zeros);
  code_.scale = scales_->dtype == DType::bf16 ? ScaleType::bf16 : ScaleType::f16;
  order_features(read_groups(nullptr), weight);
  if (zeros != nullptr) read_zeros(*zeros, source.symmetric, 0);
}

void AwqReader::read_words(int begin, int end, int column, int count, uint32_t* out) const {
  const size_t stride = static_cast<size_t>(n_) / 8;
  for (int r = begin; r < end; r++, out += kTileN) {
    for (int c = 0; c < count;) {
      const size_t word = static_cast<size_t>(column + c) / 8;
      uint32_t x[8];
      for (int i = 0; i < 8; i++) {
        x[i] = load_element<uint32_t>(weight_data_, (static_cast<size_t>(r) * 8 + i) * stride + word);
      }
      transpose_nibbles(x);
      // Runs of a row block begin and end at multiples of 8, but a reader promises nothing of the kind.
      for (int feature = (column + c) % 8; feature < 8 && c < count; feature++, c++) out[c] = x[kNibbleOf[feature]];
    }
  }
}

void AwqReader::read_group(int group, int column, int count, GroupField* out) const {
  const size_t g = static_cast<size_t>(group_of_stored(group));
  for (int c = 0; c < count; c++) {
    const size_t at = g * n_ + column + c;
    const auto scale = load_element<uint16_t>(scales_data_, at);
    if (!scale_is_finite(scale)) throw_scale(*scales_, scale, g, static_cast<size_t>(column + c));
    out[c] = {scale, 8};
    if (code_.zeros) out[c].offset = (load_element<uint32_t>(zeros_data_, at / 8) >> (4 * kNibbleOf[at % 8])) & 15u;
  }
}

static_assert([] {
  for (int i = 0; i < 8; i++) {
    if (kFeatureOf[kNibbleOf[i]] != i) return false;
  }
  return true;
}());

}  // namespace millrace
