#pragma once
// What makes keys and values of latents (LatentOp) as llama.cpp's converter writes it since 2025: two tensors, values
// [heads, value_dim, rank] and keys [heads, rank, nope], which lie as queries are multiplied with them. Of either a
// type that files have; what neither has as floats is read as float16.
#include <mutex>
#include <vector>

#include "checkpoint/linear_reader.h"

namespace millrace {

class LatentReader : public LinearReader {
 public:
  // n: heads * (nope + value_dim), a head's keys first; k: rank.
  LatentReader(const Checkpoint& checkpoint, const LinearSource& source, int n, int k);
  const std::byte* elements(int n, int begin, int end, std::byte* scratch) const override;
  void refuse_not_finite(int begin, int end) const override;
  bool by_rows() const override { return false; }  // a row of keys is of all the file's rows of its head

 private:
  // [k], of an output feature.
  void read_row(int n, float* out) const;
  const std::vector<float>& keys() const;

  const Checkpoint& checkpoint_;
  const Tensor& values_tensor_;
  const Tensor& keys_tensor_;
  int nope_ = 0, value_dim_ = 0;
  mutable std::once_flag once_;
  mutable std::vector<float> keys_;  // [heads * nope, k]
};

}  // namespace millrace
