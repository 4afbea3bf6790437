#pragma once
// Query and key of models whose rotation pairs neighbours: rows of a head come as 0, half, 1, half + 1, ... of the
// order that kernels rotate, element i with element i + half. Put in that order they are rotated to the same products.
#include "checkpoint/linear_reader.h"

namespace millrace {

// The file's row of output feature `feature`.
int row_of(const InterleavedHeads& heads, int feature);

class InterleavedReader : public LinearReader {
 public:
  InterleavedReader(std::unique_ptr<LinearReader> inner, const InterleavedHeads& heads);
  void read_words(int begin, int end, int column, int count, uint32_t* out) const override;
  void read_levels(int begin, int end, int column, int count, uint8_t* out) const override;
  void read_group(int group, int column, int count, GroupField* out) const override;
  void read_span(int span, int column, int count, SpanField* out) const override;
  const std::byte* elements(int n, int begin, int end, std::byte* scratch) const override;
  void refuse_not_finite(int begin, int end) const override;
  bool by_rows() const override { return inner_->by_rows(); }
  ErrorSums errors() const override { return inner_->errors(); }

 private:
  std::unique_ptr<LinearReader> inner_;
  InterleavedHeads heads_;
};

}  // namespace millrace
