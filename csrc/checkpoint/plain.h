#pragma once
// Linears as they were trained: [n, k] of f16, bf16 or f32, kept as they are.
#include "checkpoint/linear_reader.h"

namespace millrace {

class PlainReader : public LinearReader {
 public:
  PlainReader(const Checkpoint& checkpoint, const LinearSource& source, int n, int k);
  const std::byte* row(int n) const;
  const std::byte* elements(int n, int begin, int end, std::byte* scratch) const override;
  void refuse_not_finite(int begin, int end) const override;

 private:
  const Checkpoint& checkpoint_;
  const Tensor& weight_;
  const std::byte* data_;
  size_t row_bytes_;
};

// The same stored as [k, n].
class TransposedReader : public LinearReader {
 public:
  TransposedReader(const Checkpoint& checkpoint, const LinearSource& source, int n, int k);
  const std::byte* elements(int n, int begin, int end, std::byte* scratch) const override;
  void refuse_not_finite(int begin, int end) const override;
  bool by_rows() const override { return false; }

 private:
  const Checkpoint& checkpoint_;
  const Tensor& weight_;
  const std::byte* data_;
};

// Throws CHECKPOINT_INVALID naming the first element of rows [begin, end) of a [.., k] tensor of f16, bf16 or f32 that
// is infinite or NaN, if there is one.
void refuse_not_finite_rows(const Checkpoint& checkpoint, const Tensor& tensor, int64_t begin, int64_t end);

}  // namespace millrace
