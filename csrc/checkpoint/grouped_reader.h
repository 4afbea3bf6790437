#pragma once
// What the 4-bit formats share: input features fall into groups, each with a scale and a zero point for every output
// feature.
#include "checkpoint/linear_reader.h"

namespace millrace {

class GroupedReader : public LinearReader {
 protected:
  // Checks bits, group size and the divisibility by 8 that packing asks for. `format` is for messages: "GPTQ".
  GroupedReader(const Checkpoint& checkpoint, const LinearSource& source, int n, int k, const char* format);

  int group_size() const { return group_size_; }  // never -1
  int groups() const { return groups_; }

  // k / group_size for each input feature, or what `g_idx` says.
  std::vector<int32_t> read_groups(const Tensor* g_idx) const;
  // Sorts input features by group, each group padded to whole tiles and all but the last to the size of the largest.
  // Groups without a feature are left out. Where that changes nothing, the matrix needs no permutation. `named` is for
  // messages.
  void order_features(const std::vector<int32_t>& group_of, const Tensor& named);
  // Stores zeros unless all of them are 8, in which case code().zeros stays false; of a symmetric checkpoint they must
  // be. `offset` is added to each word first. Of the words in the last row of a tensor that packs along its rows, only
  // `last` nibbles count (0: all).
  void read_zeros(const Tensor& zeros, bool symmetric, uint32_t offset, int last = 0);
  [[noreturn]] void throw_scale(const Tensor& scales, uint16_t bits, size_t row, size_t column) const;
  bool scale_is_finite(uint16_t bits) const {
    const uint16_t exponent = code_.scale == ScaleType::f16 ? 0x7c00 : 0x7f80;
    return (bits & exponent) != exponent;
  }

  const Checkpoint& checkpoint_;
  std::vector<int32_t> stored_groups_;  // the checkpoint's group of each stored group

 private:
  int group_size_ = 0;
  int groups_ = 0;
};

}  // namespace millrace
