#include "checkpoint/gptq.h"

#include <algorithm>
#include <cstring>

#include "checkpoint/messages.h"
#include "core/half.h"
#include "core/memory.h"

namespace millrace {

namespace {

constexpr uint32_t kSymmetricWord = 0x88888888u;

template <int kCount>
void copy_rows(const std::byte* source, size_t source_stride, int rows, uint32_t* out) {
  for (int r = 0; r < rows; r++) std::memcpy(out + r * kTileN, source + r * source_stride, kCount * sizeof(uint32_t));
}

}  // namespace

GptqReader::GptqReader(const Checkpoint& checkpoint, const LinearSource& source, int n, int k)
    : LinearReader(n, k), checkpoint_(checkpoint) {
  const Tensor& weight = checkpoint.require(source.weight);
  const std::string who = describe(checkpoint, weight);
  if (source.bits != 4) {
    throw_unsupported(format("%s: GPTQ of %d bits is not supported, expected 4", who.c_str(), source.bits));
  }
  if (source.group_size <= 0 && source.group_size != -1) {
    throw_invalid(format("%s: expected a group_size of -1 or more than 0, found %d", who.c_str(), source.group_size));
  }
  if (k % 8 != 0 || n % 8 != 0) {
    throw_invalid(format("%s: GPTQ packs input and output features by 8, found %d and %d", who.c_str(), k, n));
  }
  const int group_size = source.group_size == -1 || source.group_size > k ? k : source.group_size;
  const int groups = (k + group_size - 1) / group_size;

  weight_ = &require_tensor(checkpoint, source.weight, {DType::i32}, {k / 8, n});
  scales_ = &require_tensor(checkpoint, source.scales, {DType::f16, DType::bf16}, {groups, n});
  zeros_ = source.zeros.empty() && source.symmetric
               ? nullptr
               : &require_tensor(checkpoint, source.zeros, {DType::i32}, {groups, n / 8});
  const Tensor* g_idx = source.g_idx.empty() ? nullptr : checkpoint.find(source.g_idx);
  if (g_idx != nullptr) require_tensor(checkpoint, source.g_idx, {DType::i32}, {k});
  tensors_ = {weight_, scales_};
  if (zeros_ != nullptr) tensors_.push_back(zeros_);
  if (g_idx != nullptr) tensors_.push_back(g_idx);

  weight_data_ = checkpoint.data(*weight_);
  scales_data_ = checkpoint.data(*scales_);
  zeros_data_ = zeros_ == nullptr ? nullptr : checkpoint.data(*zeros_);
  zero_offset_ = source.zeros_minus_one ? 0x11111111u : 0;
  code_.type = WeightType::q4;
  code_.scale = scales_->dtype == DType::bf16 ? ScaleType::bf16 : ScaleType::f16;
  order_features(read_groups(g_idx, group_size, groups), group_size, groups, g_idx == nullptr ? *weight_ : *g_idx);
  read_zeros(source.symmetric, groups);
}

// The group of each input feature.
std::vector<int32_t> GptqReader::read_groups(const Tensor* g_idx, int group_size, int groups) const {
  std::vector<int32_t> group_of(static_cast<size_t>(k_));
  const std::byte* data = g_idx == nullptr ? nullptr : checkpoint_.data(*g_idx);
  for (int i = 0; i < k_; i++) {
    group_of[i] = data == nullptr ? i / group_size : load_element<int32_t>(data, static_cast<size_t>(i));
    if (group_of[i] < 0 || group_of[i] >= groups) {
      throw_invalid(format("%s: expected groups from 0 to %d, found %d at index %d",
                           describe(checkpoint_, *g_idx).c_str(), groups - 1, group_of[i], i));
    }
  }
  return group_of;
}

// Sorts input features by group, each group padded to whole tiles and all but the last to the size of the largest.
// Groups without a feature are left out. Where that changes nothing, the matrix needs no permutation.
void GptqReader::order_features(const std::vector<int32_t>& group_of, int group_size, int groups, const Tensor& named) {
  std::vector<int32_t> members(static_cast<size_t>(groups));
  for (const int32_t g : group_of) members[g]++;
  int largest = 0;
  for (int g = 0; g < groups; g++) {
    if (members[g] == 0) continue;
    stored_groups_.push_back(g);
    largest = std::max(largest, members[g]);
  }
  const int64_t stored = static_cast<int64_t>(round_up(static_cast<size_t>(largest), kTileK));
  const int64_t last = static_cast<int64_t>(round_up(static_cast<size_t>(members[stored_groups_.back()]), kTileK));
  const int64_t total = (static_cast<int64_t>(stored_groups_.size()) - 1) * stored + last;
  // Groups below a tile cost what they cost; larger ones only do if g_idx is very uneven.
  const int64_t tiles = static_cast<int64_t>(round_up(static_cast<size_t>(k_), kTileK));
  if ((group_size >= kTileK && total > 2 * tiles) || total > (int64_t{1} << 24)) {
    throw_unsupported(
        format("%s: groups of very unequal size are not supported: expected about %d input features in "
               "each, found up to %d",
               describe(checkpoint_, named).c_str(), group_size, largest));
  }
  code_.group = static_cast<int>(stored);
  k_stored_ = static_cast<int>(total);

  std::vector<int64_t> next(static_cast<size_t>(groups));
  for (size_t s = 0; s < stored_groups_.size(); s++) next[stored_groups_[s]] = static_cast<int64_t>(s) * stored;
  permutation_.assign(static_cast<size_t>(total), kPadding);
  bool identity = true;
  for (int i = 0; i < k_; i++) {
    const int64_t at = next[group_of[i]]++;
    permutation_[at] = i;
    identity = identity && at == i;
  }
  code_.permuted = !identity;
  if (identity) permutation_.clear();
}

// Zeros that are all 8 are not stored, whether the checkpoint calls itself symmetric or not.
void GptqReader::read_zeros(bool symmetric, int groups) {
  if (zeros_ == nullptr) return;
  const size_t words = static_cast<size_t>(groups) * (n_ / 8);
  for (size_t i = 0; i < words; i++) {
    const uint32_t word = load_element<uint32_t>(zeros_data_, i);
    if (word + zero_offset_ == kSymmetricWord) continue;
    if (symmetric) {
      throw_invalid(format("%s: a symmetric checkpoint has 0x%08x in every word, found 0x%08x at word %zu",
                           describe(checkpoint_, *zeros_).c_str(), kSymmetricWord - zero_offset_, word, i));
    }
    code_.zeros = true;
    return;
  }
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

void GptqReader::read_group(int group, int column, int count, uint16_t* scales, uint8_t* zeros) const {
  const size_t g = static_cast<size_t>(stored_groups_[group]);
  const uint16_t exponent = code_.scale == ScaleType::f16 ? 0x7c00 : 0x7f80;
  for (int c = 0; c < count; c++) {
    const size_t at = g * n_ + column + c;
    scales[c] = load_element<uint16_t>(scales_data_, at);
    if ((scales[c] & exponent) == exponent) {
      throw_invalid(format("%s: expected finite scales, found 0x%04x at [%zu, %d]",
                           describe(checkpoint_, *scales_).c_str(), scales[c], g, column + c));
    }
    if (!code_.zeros) {
      zeros[c] = 8;
      continue;
    }
    // The addition carries from nibble to nibble: the exact inverse of an export that subtracts from the whole word.
    const uint32_t word = load_element<uint32_t>(zeros_data_, at / 8) + zero_offset_;
    zeros[c] = (word >> (4 * (at % 8))) & 15u;
  }
}

}  // namespace millrace
