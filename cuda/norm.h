#pragma once
// RMSNorm of rows of the residual stream (Zhang & Sennrich 2019, arXiv:1910.07467).
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "cuda/linear.h"

namespace millrace::cuda {

// y[i, :] = half(x[r, :] / sqrt(mean(x[r, :]^2) + epsilon) * w), saturated at 65504, r = row_indices[i] or i.
//   x            float32 [any, stride], `width` of each row
//   norm_offset  of w, float32 [width], in the slab of weights.unit; a multiple of 16 bytes
//   row_indices  [rows] on the device, -1: row i of y stays as it is; nullptr: the first `rows` rows in order
//   y            float16 [rows, y_stride]
// One CTA a row; the order of its sums depends on width and stride alone.
cudaError_t rms_norm(const float* x, int64_t stride, const Weights& weights, size_t norm_offset, float epsilon,
                     int rows, int width, __half* y, int y_stride, cudaStream_t stream, bool programmatic,
                     const int32_t* row_indices = nullptr);

}  // namespace millrace::cuda
