#pragma once
// GPTQ (https://arxiv.org/abs/2210.17323) as AutoGPTQ and GPTQModel write it, 4 bits: qweight int32 [k/8, n], nibble i
// of word [r, c] is input feature 8 r + i; qzeros int32 [groups, n/8], nibble i of word [g, c] is output feature
// 8 c + i; scales f16 or bf16 [groups, n]; g_idx int32 [k], the group of each input feature, k / group_size where
// absent. Version 1 stores zero - 1, version 2 the zero.
#include "checkpoint/linear_reader.h"

namespace millrace {

class GptqReader : public LinearReader {
 public:
  // Reads g_idx and qzeros; permutation and zeros of the code follow from them.
  GptqReader(const Checkpoint& checkpoint, const LinearSource& source, int n, int k);
  void read_words(int begin, int end, int column, int count, uint32_t* out) const override;
  void read_group(int group, int column, int count, uint16_t* scales, uint8_t* zeros) const override;

 private:
  std::vector<int32_t> read_groups(const Tensor* g_idx, int group_size, int groups) const;
  void order_features(const std::vector<int32_t>& group_of, int group_size, int groups, const Tensor& named);
  void read_zeros(bool symmetric, int groups);

  const Checkpoint& checkpoint_;
  const Tensor* weight_;
  const Tensor* scales_;
  const Tensor* zeros_;  // nullptr where symmetric and not stored
  const std::byte* weight_data_;
  const std::byte* scales_data_;
  const std::byte* zeros_data_;
  uint32_t zero_offset_;                // added to a word of qzeros
  std::vector<int32_t> stored_groups_;  // the checkpoint's group of each stored group
};

}  // namespace millrace
