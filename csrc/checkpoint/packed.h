#pragma once
// Linears in ggml's packed types, [n, k] with the blocks of a row one after the other.
#include "checkpoint/linear_reader.h"

namespace millrace {

// Types that have no code of their own in slabs: float32, whose values are exact.
class PackedReader : public LinearReader {
 public:
  PackedReader(const Checkpoint& checkpoint, const Tensor& weight, int n, int k);
  const std::byte* elements(int n, int begin, int end, std::byte* scratch) const override;
  void refuse_not_finite(int begin, int end) const override;

 private:
  const Checkpoint& checkpoint_;
  const Tensor& weight_;
  const std::byte* data_;
  size_t row_bytes_;
};

// Q4_0 is 4 bits with a zero of 8 in groups of 32.
class Q40Reader : public LinearReader {
 public:
  Q40Reader(const Checkpoint& checkpoint, const Tensor& weight, int n, int k);
  void read_words(int begin, int end, int column, int count, uint32_t* out) const override;
  void read_group(int group, int column, int count, uint16_t* scales, uint8_t* zeros) const override;
  bool by_rows() const override { return true; }

 private:
  const Checkpoint& checkpoint_;
  const Tensor& weight_;
  const std::byte* data_;
  size_t row_bytes_;
};

// Of a tensor whose type is_packed().
std::unique_ptr<LinearReader> open_packed(const Checkpoint& checkpoint, const Tensor& weight, int n, int k);

// Rows [begin, end) of a packed tensor [.., k] as float32; throws CHECKPOINT_INVALID naming the first that is not
// finite.
void read_packed_rows(const Checkpoint& checkpoint, const Tensor& tensor, int64_t begin, int64_t end, float* out);

}  // namespace millrace
