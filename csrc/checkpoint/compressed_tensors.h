#pragma once
// compressed-tensors' pack-quantized format (https://github.com/vllm-project/compressed-tensors), of 4-bit integers:
// weight_packed int32 [n, k/8], nibble i of word [r, c] is input feature 8 c + i of output feature r, stored as q + 8;
// weight_scale f16, bf16 or f32 [n, groups], or one number; weight_zero_point int32 [n/8 rounded up, groups] where not
// symmetric, nibble i of word [r, g] is output feature 8 r + i, stored as zero + 8; weight_g_idx int32 [k], the group
// of each input feature (actorder `group`), k / group_size where absent or all -1; weight_shape [2] = (n, k). With an
// offset of 8 in values and zeros alike, both are the unsigned nibbles that the other formats store. Of 8 bits words
// hold bytes, stored as q + 128. Its int-quantized format: weight int8 [n, k] and weight_zero_point int8 [n, groups],
// the numbers themselves, whatever their bits. Scales of f32 are rounded to f16, or to bf16 where they leave its normal
// range.
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
  void open_scales(const std::string& name);
  const Tensor* open_zeros(const LinearSource& source);
  uint8_t level_at(const std::byte* data, size_t index) const;

  bool plain_ = false;  // int8, not packed
  const Tensor* scales_;
  const std::byte* weight_data_;
  const std::byte* scales_data_;
  bool one_scale_ = false;
  std::vector<uint16_t> rounded_;          // of scales of f32
  const std::byte* zeros_data_ = nullptr;  // where not stored, all zeros are 8
};

}  // namespace millrace
