#pragma once
// What is left of a layer where a linear could not be stored as one matrix.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

namespace millrace::cuda {

// act[row, i] = half(silu(x[row, i]) * x[row, intermediate + i]), from float32 [rows, 2 * intermediate]: gate features
// first, then up features.
cudaError_t silu_mul(const float* x, int rows, int intermediate, __half* act, int act_stride, cudaStream_t stream,
                     bool programmatic);

}  // namespace millrace::cuda
