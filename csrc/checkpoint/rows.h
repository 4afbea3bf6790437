#pragma once
// A linear whose output features are not the file's rows one after the other: some of the rows alone, those of heads in
// the order that kernels rotate, or those of a GLU in the order that its reader stores them.
#include "checkpoint/linear_reader.h"

namespace millrace {

// The file's row of output feature `feature`.
int row_of(const LinearSource& source, int feature);

// Throws INVALID_ARGUMENT where `n` rows are no such heads.
void check_heads(const HeadOrder& heads, int n);

class RowsReader : public LinearReader {
 public:
  // `inner` has all rows of the tensors, this reader `n` of them; `order`: [n], or empty: which of those each is.
  RowsReader(std::unique_ptr<LinearReader> inner, const LinearSource& source, int n, std::vector<int32_t> order = {});
  void read_words(int begin, int end, int column, int count, uint32_t* out) const override;
  void read_levels(int begin, int end, int column, int count, uint8_t* out) const override;
  void read_group(int group, int column, int count, GroupField* out) const override;
  void read_span(int span, int column, int count, SpanField* out) const override;
  const std::byte* elements(int n, int begin, int end, std::byte* scratch) const override;
  void refuse_not_finite(int begin, int end) const override;
  // Rows between are another linear's.
  bool by_rows() const override { return inner_->by_rows() && source_.rows.together() && order_.empty(); }
  int first_row() const override { return source_.rows.begin; }
  ErrorSums errors() const override { return inner_->errors(); }

 private:
  bool in_order() const { return source_.heads.head_dim == 0 && source_.rows.together() && order_.empty(); }
  int row(int feature) const {
    return row_of(source_, order_.empty() ? feature : order_[static_cast<size_t>(feature)]);
  }
  std::unique_ptr<LinearReader> inner_;
  LinearSource source_;
  std::vector<int32_t> order_;
};

}  // namespace millrace
