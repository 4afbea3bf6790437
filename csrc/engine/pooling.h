#pragma once
// Embeddings: the final hidden states of a text's tokens, that is the residual stream behind the norm with which the
// head begins, pooled into one vector of length 1.
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "model/program.h"
#include "model/slab_layout.h"

namespace millrace {

enum class Pooling : uint8_t { mean, last };

// The norms with which the head's operations begin, of one row [hidden] in place.
void final_norm(const std::vector<Op>& head, const UnitLayout& layout, const std::byte* slab, std::span<float> row);

// Rows are added up in their order, in float64: how a text was cut into steps makes no difference.
class PooledRows {
 public:
  void add(std::span<const float> row);
  // The mean of the rows, of Euclidean length 1; zeros stay. Empty where it holds no numbers.
  std::vector<float> unit_length() const;

 private:
  std::vector<double> sum_;
};

}  // namespace millrace
