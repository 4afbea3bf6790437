#pragma once
// Linears of an expert on the CPU, by the arithmetic that GPUs share (backend/expert_arithmetic.h), with the integer
// kernels of linear_kernels.h. Nothing here waits or has threads: who calls it divides the row blocks.
#include <cstddef>
#include <cstdint>
#include <vector>

#include "backend/cpu/linear_kernels.h"
#include "model/slab_layout.h"

namespace millrace {

// The nearest float16 number; beyond the largest, the largest.
float round_to_half(float value);

// Whether all of a linear's matrices are of integers or tables.
bool has_expert_arithmetic(const LinearLayout& linear);

int row_blocks(const LinearLayout& linear);  // of 64 output features each, of all matrices

// Rows of x as an expert's linear takes them; grows to the largest, then stays.
class ExpertRows {
 public:
  // Before quantize(): of so many rows of a linear whose expert begins at `expert`.
  void begin(const LinearLayout& linear, const std::byte* expert, int rows);
  // x: float32 [linear.k], all float16 numbers. Different rows may be quantised at once.
  void quantize(int row, const float* x);
  // Row blocks [begin, end) of y: float32 [row_blocks() * 64] a row, of the linear's output features in their order,
  // bias included. Different row blocks may be computed at once, after all rows are quantised.
  void multiply(int begin, int end, float* const* y) const;

  uint64_t weight_bytes() const { return weight_bytes_; }  // of all row blocks

 private:
  struct Matrix;
  // q, scales and sums of the chunks of rows that a kernel takes at once: see Q4RowBlock.
  struct Prepared {
    const MatrixLayout* matrix = nullptr;
    const int32_t* permutation = nullptr;
    int chunk_rows = 0;       // that a kernel takes at once
    int block = 0;            // tiles that have a scale and a sum to kernels
    std::vector<int> begins;  // of blocks, in tiles; and the end
    std::vector<int16_t> q;
    std::vector<float> scales;
    std::vector<int32_t> sums;
  };
  void quantize(Prepared& p, int row, const float* x) const;
  void multiply(const LinearLayout::Segment& segment, const Prepared& p, int row_block, float* const* y) const;

  const LinearKernels* kernels_ = nullptr;
  const LinearLayout* linear_ = nullptr;
  const std::byte* expert_ = nullptr;
  int rows_ = 0;
  uint64_t weight_bytes_ = 0;
  std::vector<Prepared> prepared_;  // of each segment
};

}  // namespace millrace
