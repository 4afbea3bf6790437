#include "checkpoint/grouped_reader.h"

#include <algorithm>

#include "checkpoint/messages.h"
#include "core/memory.h"

namespace millrace {

namespace {

constexpr uint32_t kSymmetricNibbles = 0x88888888u, kSymmetricBytes = 0x80808080u;

}  // namespace

GroupedReader::GroupedReader(const Checkpoint& checkpoint, const LinearSource& source, int n, int k, const char* format)
    : LinearReader(n, k), checkpoint_(checkpoint) {
  const Tensor& weight = checkpoint.require(source.weight);
  const std::string who = describe(checkpoint, weight);
  if (source.bits != 4 && (source.bits != 8 || source.format == LinearFormat::awq)) {
    throw_unsupported(millrace::format("%s: %s of %d bits is not supported, expected 4%s", who.c_str(), format,
                                       source.bits, source.format == LinearFormat::awq ? "" : " or 8"));
  }
  code_.type = source.bits == 4 ? WeightType::q4 : WeightType::q8;
  if (source.group_size <= 0 && source.group_size != -1) {
    throw_invalid(
        millrace::format("%s: expected a group_size of -1 or more than 0, found %d", who.c_str(), source.group_size));
  }
  if (k % per_word() != 0) {
    throw_unsupported(millrace::format("%s: expected a multiple of %d input features, by which %s packs them, found %d",
                                       who.c_str(), per_word(), format, k));
  }
  group_size_ = source.group_size == -1 || source.group_size > k ? k : source.group_size;
  groups_ = (k + group_size_ - 1) / group_size_;
}

std::vector<int32_t> GroupedReader::read_groups(const Tensor* g_idx) const {
  std::vector<int32_t> group_of(static_cast<size_t>(k_));
  const std::byte* data = g_idx == nullptr ? nullptr : checkpoint_.data(*g_idx);
  for (int i = 0; i < k_; i++) {
    group_of[i] = data == nullptr ? i / group_size_ : load_element<int32_t>(data, static_cast<size_t>(i));
    if (group_of[i] < 0 || group_of[i] >= groups_) {
      throw_invalid(format("%s: expected groups from 0 to %d, found %d at index %d",
                           describe(checkpoint_, *g_idx).c_str(), groups_ - 1, group_of[i], i));
    }
  }
  return group_of;
}

void GroupedReader::order_features(const std::vector<int32_t>& group_of, const Tensor& named) {
  std::vector<int32_t> members(static_cast<size_t>(groups_));
  for (const int32_t g : group_of) members[g]++;
  int largest = 0;
  for (int g = 0; g < groups_; g++) {
    if (members[g] == 0) continue;
    stored_groups_.push_back(g);
    largest = std::max(largest, members[g]);
  }
  const GroupSizes sizes = groups_of(code_.type);
  const bool any = code_.type == WeightType::q4;
  const size_t granule = any || stored_groups_.size() == 1 ? kTileK : static_cast<size_t>(sizes.least);
  const int64_t stored = static_cast<int64_t>(round_up(static_cast<size_t>(largest), granule));
  const int64_t last = static_cast<int64_t>(round_up(static_cast<size_t>(members[stored_groups_.back()]), kTileK));
  const int64_t total = (static_cast<int64_t>(stored_groups_.size()) - 1) * stored + last;
  // Groups below a tile cost what they cost; larger ones only do if g_idx is very uneven.
  const int64_t tiles = static_cast<int64_t>(round_up(static_cast<size_t>(k_), kTileK));
  if ((group_size_ >= static_cast<int>(granule) && total > 2 * tiles) || total > (int64_t{1} << 24)) {
    throw_unsupported(
        format("%s: groups of very unequal size are not supported: expected about %d input features in "
               "each, found up to %d",
               describe(checkpoint_, named).c_str(), group_size_, largest));
  }
  code_.group = static_cast<int>(stored);
  if (!any) {
    const bool large = stored % sizes.most == 0 || stored_groups_.size() == 1;
    code_.group = large ? sizes.most : sizes.least;
    parts_ = static_cast<int>((stored + code_.group - 1) / code_.group);
  }
  k_stored_ = static_cast<int>(total);

  std::vector<int64_t> next(static_cast<size_t>(groups_));
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

void GroupedReader::read_zeros(const Tensor& zeros, bool symmetric, uint32_t offset, int last) {
  const std::byte* data = checkpoint_.data(zeros);
  const size_t words = zeros.bytes / sizeof(uint32_t);
  const size_t whole = last == 0 ? words : words - static_cast<size_t>(zeros.shape.back());
  const uint32_t padding = last == 0 ? 0 : ~0u << (bits() * last);
  const uint32_t middle = bits() == 4 ? kSymmetricNibbles : kSymmetricBytes;
  for (size_t i = 0; i < words; i++) {
    const uint32_t word = load_element<uint32_t>(data, i);
    const uint32_t ignored = i < whole ? 0 : padding;
    if (((word + offset) | ignored) == (middle | ignored)) continue;
    if (symmetric) {
      throw_invalid(format("%s: a symmetric checkpoint has 0x%08x in every word, found 0x%08x at word %zu",
                           describe(checkpoint_, zeros).c_str(), middle - offset, word, i));
    }
    code_.zeros = true;
    return;
  }
}

void GroupedReader::throw_scale(const Tensor& scales, uint16_t bits, size_t row, size_t column) const {
  throw_invalid(format("%s: expected finite scales, found 0x%04x at [%zu, %zu]", describe(checkpoint_, scales).c_str(),
                       bits, row, column));
}

}  // namespace millrace
