#pragma once
// compressed-tensors' pack-quantized format (https://github.com/vllm-project/compressed-tensors), 4-bit integers:
// weight_packed int32 [n, k/8], nibble i of word [r, c] is input feature 8 c + i of output feature r, stored as q + 8;
// weight_scale f16 or bf16 [n, groups]; weight_zero_point int32 [n/8 rounded up, groups] where not symmetric, nibble i
// of word [r, g] is output feature 8 r + i, stored as zero + 8; weight_g_idx int32 [k], the group of each input feature
// (actorder `group`), k / group_size where absent or all -1; weight_shape [2] = (n, k). With an offset of 8 in values
// and zeros alike, both are the unsigned nibbles that the other formats store.
#include "checkpoint/grouped_reader.h"

namespace millrace {

class CompressedTensorsReader : public GroupedReader {
 public:
  // Reads weight_g_idx, weight_shape and weight_zero_point; permutation and zeros of the code follow from them.
  CompressedTensorsReader(const Checkpoint& checkpoint, const LinearSource& source, int n, int k);
  void read_words(int begin, int end, int column, int count, uint32_t* out) const override;
  void read_levels(int begin, int end, int column, int count, uint8_t* out) const override;
  void read_group(int group, int column, int count, GroupField* out) const override;

 private:
  void check_shape(const std::string& name) const;
  const Tensor* find_groups(const std::string& name) const;

  bool plain_ = false;  // int8, not packed
  const Tensor* scales_;
  const std::byte* weight_data_;
  const std::byte* scales_data_;
  const std::byte* zeros_data_ = nullptr;  // where not stored, all zeros are 8
};

}  // namespace millrace
