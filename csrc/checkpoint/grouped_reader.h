#pragma once
// What the formats of 4 and 8 bits share: input features fall into groups, each with a scale and a zero point for every
// output feature.
#include "checkpoint/linear_reader.h"

namespace millrace {

class GroupedReader : public LinearReader {
 protected:
  // Checks bits, group size and the divisibility that packing asks for. `format` is for messages: "GPTQ".
  GroupedReader(const Checkpoint& checkpoint, const LinearSource& source, int n, int k, const char* format);

  int group_size() const { return group_size_; }  // never -1
  int groups() const { return groups_; }
  int bits() const { return code_.traits().bits; }
  int per_word() const { return 32 / bits(); }
  uint16_t zero_at(uint32_t word, size_t place) const {
    return static_cast<uint16_t>(word >> (static_cast<unsigned>(bits()) * place) & ((1u << bits()) - 1));
  }
  // The checkpoint's group of a stored one: kernels may want smaller groups than the checkpoint has.
  int group_of_stored(int group) const {
    return stored_groups_[static_cast<size_t>(group) / static_cast<size_t>(parts_)];
  }

  // k / group_size for each input feature, or what `g_idx` says.
  std::vector<int32_t> read_groups(const Tensor* g_idx) const;
  // Sorts input features by group, each group padded to whole tiles (of 8 bits, to groups that
  // kernels have) and all but the last to the size of the largest.
  // Groups without a feature are left out. Where that changes nothing, the matrix needs no permutation. `named` is for
  // messages.
  void order_features(const std::vector<int32_t>& group_of, const Tensor& named);
  // Stores zeros unless all of them are the middle, in which case code().zeros stays false; of a symmetric checkpoint
  // they must be. `offset` is added to each word first. Of the words in the last row of a tensor that packs along its
  // rows, only `last` zeros count (0: all).
  void read_zeros(const Tensor& zeros, bool symmetric, uint32_t offset, int last = 0);
  [[noreturn]] void throw_scale(const Tensor& scales, uint16_t bits, size_t row, size_t column) const;
  bool scale_is_finite(uint16_t bits) const {
    const uint16_t exponent = code_.scale == ScaleType::f16 ? 0x7c00 : 0x7f80;
    return (bits & exponent) != exponent;
  }

  const Checkpoint& checkpoint_;

 private:
  std::vector<int32_t> stored_groups_;  // the checkpoint's group of each, padded as it is stored
  int parts_ = 1;                       // groups of the code in one of them
  int group_size_ = 0;
  int groups_ = 0;
};

}  // namespace millrace
