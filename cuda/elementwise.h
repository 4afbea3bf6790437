#pragma once
// What is left of a layer where a linear could not be stored as one matrix.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>

#include "cuda/linear.h"
#include "model/program.h"

namespace millrace::cuda {

// activation(gate_i) * up_i of float32 [rows, x_stride]: gate features first, then up features from `features` on; or,
// `interleaved`, in the order of an interleaved gate_up (csrc/model/slab_layout.h). To halves, saturated at 65504, or
// to floats, whichever is given.
cudaError_t glu(const float* x, int x_stride, bool interleaved, int rows, int features, Activation activation,
                __half* halves, float* floats, int stride, cudaStream_t stream, bool programmatic);

// activation(x) * by of two rows of so many features, `by` of either kind; to halves, saturated, or to floats.
struct GateArguments {
  const float* x = nullptr;
  int x_stride = 0;
  bool scalar = false;  // one number a row is the gate of all its features
  const float* by = nullptr;
  const __half* by_halves = nullptr;
  int by_stride = 0;
  int rows = 0, features = 0;
  Activation activation = Activation::silu;
  __half* halves = nullptr;
  float* floats = nullptr;
  int stride = 0;
};
cudaError_t gate(const GateArguments& arguments, cudaStream_t stream, bool programmatic);

// y += scale * x, float32 [count].
cudaError_t add_scaled(const float* x, float* y, int64_t count, float scale, cudaStream_t stream, bool programmatic);

// y[row, :] = half(x[r, :]), saturated, r = row_indices[row] or row; negative indices leave their row as it is.
cudaError_t to_halves(const float* x, int x_stride, int rows, int width, __half* y, int y_stride,
                      const int32_t* row_indices, cudaStream_t stream, bool programmatic);

// x[row, i] *= factor, times a weight of the unit's slab, times 1 + growth * log(1 + floor(position / period)); then,
// with a cap, cap * tanh(x / cap).
struct ScaleArguments {
  float* x = nullptr;
  int stride = 0, rows = 0, width = 0;
  float factor = 1, cap = 0;
  Weights weights;
  int64_t weight_offset = -1;  // of one float; -1: none
  const int32_t* positions = nullptr;
  int period = 0;
  float growth = 0;
};
cudaError_t scale(const ScaleArguments& arguments, cudaStream_t stream, bool programmatic);

// Norms of groups of columns, RMS or, with `mean`, of what is left of the mean: times weights and plus biases, if there
// are any, to floats (added to them, if asked to) or to halves.
struct NormGroups {
  const float* x = nullptr;
  int64_t x_stride = 0;
  const int32_t* row_indices = nullptr;  // negative: the row stays as it is
  int rows = 0, groups = 1, width = 0;
  Weights weights;
  int64_t weight_offset = -1, bias_offset = -1;  // float32 [width]; -1: none
  float epsilon = 0;
  bool mean = false, add = false;
  float* y = nullptr;
  __half* halves = nullptr;
  int64_t y_stride = 0;
};
cudaError_t norm_groups(const NormGroups& arguments, cudaStream_t stream, bool programmatic);

// y[row, i] += bias[i], float32; bias: float32 [n] at `bias_offset` of the unit's slab.
cudaError_t add_bias(float* y, int y_stride, int rows, int n, const Weights& weights, size_t bias_offset,
                     cudaStream_t stream, bool programmatic);

// RMSNorm of each query head and each key head of qkv, float32 [rows, stride], in place; weights float32 [head_dim] at
// the offsets of the unit's slab (Qwen3).
cudaError_t norm_heads(float* qkv, int stride, int rows, int heads, int kv_heads, int head_dim, const Weights& weights,
                       size_t query_norm_offset, size_t key_norm_offset, float epsilon, cudaStream_t stream,
                       bool programmatic);

}  // namespace millrace::cuda
