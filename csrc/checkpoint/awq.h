#pragma once
// AWQ (https://arxiv.org/abs/2306.00978) in AutoAWQ's GEMM layout, 4 bits: qweight int32 [k, n/8], packed along output
// features: nibble i of word [r, c] is output feature 8 c + {0, 2, 4, 6, 1, 3, 5, 7}[i]; qzeros int32 [groups, n/8] in
// the same order, the zero itself; scales f16 or bf16 [groups, n]. Groups are consecutive input features.
#include "checkpoint/grouped_reader.h"

namespace millrace {

class AwqReader : public GroupedReader {
 public:
  // Reads qzeros; whether the code has zeros follows from them.
  AwqReader(const Checkpoint& checkpoint, const LinearSource& source, int n, int k);
  void read_words(int begin, int end, int column, int count, uint32_t* out) const override;
  void read_group(int group, int column, int count, GroupField* out) const override;

 private:
  const Tensor* scales_;
  const std::byte* weight_data_;
  const std::byte* scales_data_;
  const std::byte* zeros_data_ = nullptr;  // where not stored, all zeros are 8
};

}  // namespace millrace
