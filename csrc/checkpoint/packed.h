#pragma once
// Linears in ggml's packed types, [n, k] with the blocks of a row one after the other.
#include "checkpoint/linear_reader.h"

namespace millrace {

class PackedReader : public LinearReader {
 public:
  PackedReader(const Checkpoint& checkpoint, const Tensor& weight, int n, int k);
  void read_words(int begin, int end, int column, int count, uint32_t* out) const override;  // of those that are q4
  void read_levels(int begin, int end, int column, int count, uint8_t* out) const override;
  void read_group(int group, int column, int count, GroupField* out) const override;
  void read_span(int span, int column, int count, SpanField* out) const override;
  bool by_rows() const override { return true; }

 private:
  void read_nibbles(int begin, int end, int column, int count, uint32_t* out) const;
  const std::byte* block(int n, int feature) const;
  void refuse_not_finite_scale(uint32_t bits, bool e8m0, int n, int feature) const;

  const Checkpoint& checkpoint_;
  const Tensor& weight_;
  const std::byte* data_;
  size_t row_bytes_;
  const DTypeTraits& blocks_;
};

// Of a tensor whose type is_packed().
std::unique_ptr<LinearReader> open_packed(const Checkpoint& checkpoint, const Tensor& weight, int n, int k);

// Rows [begin, end) of a packed tensor [.., k] as float32; throws CHECKPOINT_INVALID naming the first that is not
// finite.
void read_packed_rows(const Checkpoint& checkpoint, const Tensor& tensor, int64_t begin, int64_t end, float* out);

}  // namespace millrace
