#include "checkpoint/rows.h"

#include "core/error.h"

namespace millrace {

int row_of(const LinearSource& source, int feature) {
  const HeadOrder& heads = source.heads;
  if (heads.head_dim == 0) return source.rows.at(feature);
  const int within = feature % heads.head_dim, half = heads.head_dim / 2, turning = heads.rotary / 2;
  const int pair = within % half, side = within / half;
  int row;
  if (pair < turning) {
    row = heads.interleaved ? 2 * pair + side : pair + side * turning;
  } else {
    row = heads.rotary + (pair - turning) + side * (half - turning);
  }
  return source.rows.at(feature - within) + row;
}

void check_heads(const HeadOrder& heads, int n) {
  if (heads.head_dim != 0 && (heads.head_dim < 0 || heads.head_dim % 2 != 0 || heads.rotary < 2 ||
                              heads.rotary % 2 != 0 || heads.rotary > heads.head_dim || n % heads.head_dim != 0)) {
    throw Error(code::kInvalidArgument,
                format("%d output features in heads of %d, of which %d are rotated", n, heads.head_dim, heads.rotary),
                "give a head size that divides the output features, and an even part of it");
  }
}

RowsReader::RowsReader(std::unique_ptr<LinearReader> inner, const LinearSource& source, int n,
                       std::vector<int32_t> order)
    : LinearReader(n, inner->k()), inner_(std::move(inner)), source_(source), order_(std::move(order)) {
  check_heads(source_.heads, n_);
  code_ = inner_->code();
  k_stored_ = inner_->k_stored();
  permutation_ = inner_->permutation();
  tensors_ = inner_->tensors();
}

void RowsReader::read_words(int begin, int end, int column, int count, uint32_t* out) const {
  if (in_order()) return inner_->read_words(begin, end, row(column), count, out);
  for (int c = 0; c < count; c++) inner_->read_words(begin, end, row(column + c), 1, out + c);
}

void RowsReader::read_levels(int begin, int end, int column, int count, uint8_t* out) const {
  if (in_order()) return inner_->read_levels(begin, end, row(column), count, out);
  for (int c = 0; c < count; c++) {
    inner_->read_levels(begin, end, row(column + c), 1, out + static_cast<size_t>(c) * kTileK);
  }
}

void RowsReader::read_group(int group, int column, int count, GroupField* out) const {
  if (in_order()) return inner_->read_group(group, row(column), count, out);
  for (int c = 0; c < count; c++) inner_->read_group(group, row(column + c), 1, out + c);
}

void RowsReader::read_span(int span, int column, int count, SpanField* out) const {
  if (in_order()) return inner_->read_span(span, row(column), count, out);
  for (int c = 0; c < count; c++) inner_->read_span(span, row(column + c), 1, out + c);
}

const std::byte* RowsReader::elements(int n, int begin, int end, std::byte* scratch) const {
  return inner_->elements(row(n), begin, end, scratch);
}

void RowsReader::refuse_not_finite(int begin, int end) const {
  for (int n = begin; n < end; n++) inner_->refuse_not_finite(row(n), row(n) + 1);
}

}  // namespace millrace
