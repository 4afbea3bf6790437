#pragma once
// GPTQ (https://arxiv.org/abs/2210.17323) as AutoGPTQ and GPTQModel write it, of 4 bits (8: words of four bytes in
// place of eight nibbles, everywhere): qweight int32 [k/8, n], nibble i of word [r, c] is input feature 8 r + i; qzeros
// int32 [groups, n/8], nibble i of word [g, c] is output feature 8 c + i; scales f16 or bf16 [groups, n]; g_idx int32
// [k], the group of each input feature, k / group_size where absent. Version 1 stores zero - 1, version 2 the zero.
#include "checkpoint/grouped_reader.h"

namespace millrace {

class GptqReader : public GroupedReader {
 public:
  // Reads g_idx and qzeros; permutation and zeros of the code follow from them.
  GptqReader(const Checkpoint& checkpoint, const LinearSource& source, int n, int k);
  void read_words(int begin, int end, int column, int count, uint32_t* out) const override;
  void read_levels(int begin, int end, int column, int count, uint8_t* out) const override;
  void read_group(int group, int column, int count, GroupField* out) const override;

 private:
  const Tensor* scales_;
  const std::byte* weight_data_;
  const std::byte* scales_data_;
  const std::byte* zeros_data_ = nullptr;  // where not stored, all zeros are 8
  uint32_t zero_offset_;                   // added to a word of qzeros
};

}  // namespace millrace
