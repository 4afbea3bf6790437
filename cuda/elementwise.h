#pragma once
// What is left of a layer where a linear could not be stored as one matrix.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>

#include "cuda/linear.h"

namespace millrace::cuda {

// act[row, i] = half(silu(gate_i) * up_i), from float32 [rows, x_stride]: gate features first, then up features from
// `intermediate` on; or, `interleaved`, in the order of an interleaved gate_up (csrc/model/slab_layout.h).
cudaError_t silu_mul(const float* x, int x_stride, bool interleaved, int rows, int intermediate, __half* act,
                     int act_stride, cudaStream_t stream, bool programmatic);

// y[row, i] += bias[i], float32; bias: float32 [n] at `bias_offset` of the unit's slab.
cudaError_t add_bias(float* y, int y_stride, int rows, int n, const Weights& weights, size_t bias_offset,
                     cudaStream_t stream, bool programmatic);

// RMSNorm of each query head and each key head of qkv, float32 [rows, stride], in place; weights float32 [head_dim] at
// the offsets of the unit's slab (Qwen3).
cudaError_t norm_heads(float* qkv, int stride, int rows, int heads, int kv_heads, int head_dim, const Weights& weights,
                       size_t query_norm_offset, size_t key_norm_offset, float epsilon, cudaStream_t stream,
                       bool programmatic);

}  // namespace millrace::cuda
