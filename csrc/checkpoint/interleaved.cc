#include "checkpoint/interleaved.h"

#include "checkpoint/messages.h"
#include "core/error.h"

namespace millrace {

int row_of(const InterleavedHeads& heads, int feature) {
  if (heads.head_dim == 0) return feature;
  const int within = feature % heads.head_dim, half = heads.rotary / 2;
  if (within >= heads.rotary) return feature;
  return feature - within + 2 * (within % half) + within / half;
}

InterleavedReader::InterleavedReader(std::unique_ptr<LinearReader> inner, const InterleavedHeads& heads)
    : LinearReader(inner->n(), inner->k()), inner_(std::move(inner)), heads_(heads) {
  if (heads.head_dim < 0 || heads.rotary < 2 || heads.rotary % 2 != 0 || heads.rotary > heads.head_dim ||
      n_ % heads.head_dim != 0) {
    throw Error(code::kInvalidArgument,
                format("%d output features in heads of %d, of which %d are rotated", n_, heads.head_dim, heads.rotary),
                "give a head size that divides the output features, and an even part of it");
  }
  code_ = inner_->code();
  k_stored_ = inner_->k_stored();
  permutation_ = inner_->permutation();
  tensors_ = inner_->tensors();
}

void InterleavedReader::read_words(int begin, int end, int column, int count, uint32_t* out) const {
  for (int c = 0; c < count; c++) inner_->read_words(begin, end, row_of(heads_, column + c), 1, out + c);
}

void InterleavedReader::read_levels(int begin, int end, int column, int count, uint8_t* out) const {
  for (int c = 0; c < count; c++) {
    inner_->read_levels(begin, end, row_of(heads_, column + c), 1, out + static_cast<size_t>(c) * kTileK);
  }
}

void InterleavedReader::read_group(int group, int column, int count, GroupField* out) const {
  for (int c = 0; c < count; c++) inner_->read_group(group, row_of(heads_, column + c), 1, out + c);
}

void InterleavedReader::read_span(int span, int column, int count, SpanField* out) const {
  for (int c = 0; c < count; c++) inner_->read_span(span, row_of(heads_, column + c), 1, out + c);
}

const std::byte* InterleavedReader::elements(int n, int begin, int end, std::byte* scratch) const {
  return inner_->elements(row_of(heads_, n), begin, end, scratch);
}

void InterleavedReader::refuse_not_finite(int begin, int end) const {
  for (int n = begin; n < end; n++) inner_->refuse_not_finite(row_of(heads_, n), row_of(heads_, n) + 1);
}

}  // namespace millrace
