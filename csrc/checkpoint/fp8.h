#pragma once
// e4m3 weights [n, k] with float scales: one for each block of rows and input features (transformers' fp8:
// weight_scale_inv [n / rows, k / features], both rounded up), a row (compressed-tensors: weight_scale [n, 1]) or the
// tensor (of one element). Their scales for activations are not read: activations stay as they are.
#include "checkpoint/linear_reader.h"

namespace millrace {

class Fp8Reader : public LinearReader {
 public:
  Fp8Reader(const Checkpoint& checkpoint, const LinearSource& source, int n, int k);
  void read_levels(int begin, int end, int column, int count, uint8_t* out) const override;
  void read_group(int group, int column, int count, GroupField* out) const override;
  bool by_rows() const override { return true; }

 private:
  const Checkpoint& checkpoint_;
  const Tensor& weight_;
  const Tensor* scales_ = nullptr;
  const std::byte* data_;
  int block_rows_ = 0, block_features_ = 0;  // that share a scale
  std::vector<float> values_;                // of the scales
  int columns_ = 0;
};

// E2M1 weights, two a byte [n, k / 2], low nibble first, with a byte of scale for so many input features [n, k /
// group].
class E2m1Reader : public LinearReader {
 public:
  void read_levels(int begin, int end, int column, int count, uint8_t* out) const override;
  void read_group(int group, int column, int count, GroupField* out) const override;
  bool by_rows() const override { return true; }

 protected:
  E2m1Reader(const Checkpoint& checkpoint, const LinearSource& source, int n, int k, WeightType type, DType scales);
  const Checkpoint& checkpoint_;

 private:
  const Tensor* scales_;
  const std::byte* data_;
  const std::byte* scales_data_;
};

// e4m3 scales of 16; one float32 for the tensor, which multiplies (modelopt's weight_scale_2) or divides
// (compressed-tensors' weight_global_scale).
class Nvfp4Reader : public E2m1Reader {
 public:
  Nvfp4Reader(const Checkpoint& checkpoint, const LinearSource& source, int n, int k);
  void read_span(int span, int column, int count, SpanField* out) const override;

 private:
  float half_ = 0.0f;  // of the tensor's scale: the table has twice the values
};

// Scales of 32, each 2^(byte - 127).
class Mxfp4Reader : public E2m1Reader {
 public:
  Mxfp4Reader(const Checkpoint& checkpoint, const LinearSource& source, int n, int k);
};

}  // namespace millrace
