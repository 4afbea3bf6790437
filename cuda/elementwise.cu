#include "cuda/common.cuh"
#include "cuda/elementwise.h"

namespace millrace::cuda {

namespace {

constexpr int kThreads = 256;

__global__ void silu_mul_kernel(const float* x, int x_stride, bool interleaved, int intermediate, __half* act,
                                int act_stride) {
  wait_for_predecessor();
  allow_successor();
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= intermediate) return;
  const float* row = x + static_cast<size_t>(blockIdx.y) * x_stride;
  const int gate_at = interleaved ? i / 8 * 16 + i % 8 : i;
  const int up_at = interleaved ? gate_at + 8 : intermediate + i;
  const float gate = row[gate_at];
  const float value = gate / (1.0f + expf(-gate)) * row[up_at];
  // Large activations saturate; a NaN stays one, so that the sampler sees it.
  const float held = value > 65504.0f ? 65504.0f : value < -65504.0f ? -65504.0f : value;
  act[static_cast<size_t>(blockIdx.y) * act_stride + i] = __float2half_rn(held);
}

__global__ void add_bias_kernel(float* y, int y_stride, int n, Weights weights, size_t bias_offset) {
  wait_for_predecessor();
  allow_successor();
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const auto* bias = reinterpret_cast<const float*>(weights.units[weights.unit] + bias_offset);
  y[static_cast<size_t>(blockIdx.y) * y_stride + i] += bias[i];
}

// A warp a head: sums in the order of a butterfly, which head_dim alone fixes.
__global__ void norm_heads_kernel(float* qkv, int stride, int heads, int kv_heads, int head_dim, Weights weights,
                                  size_t query_norm_offset, size_t key_norm_offset, float epsilon) {
  wait_for_predecessor();
  allow_successor();
  const int head = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  if (head >= heads + kv_heads) return;
  const int lane = threadIdx.x % 32;
  float* x = qkv + static_cast<size_t>(blockIdx.y) * stride + head * head_dim;
  const size_t offset = head < heads ? query_norm_offset : key_norm_offset;
  const auto* weight = reinterpret_cast<const float*>(weights.units[weights.unit] + offset);
  float sum = 0.0f;
  for (int i = lane; i < head_dim; i += 32) sum += x[i] * x[i];
  for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
  const float scale = rsqrtf(sum / static_cast<float>(head_dim) + epsilon);
  for (int i = lane; i < head_dim; i += 32) x[i] = x[i] * scale * weight[i];
}

dim3 grid_of(int width, int rows) {
  return dim3((width + kThreads - 1) / kThreads, rows);
}

}  // namespace

cudaError_t silu_mul(const float* x, int x_stride, bool interleaved, int rows, int intermediate, __half* act,
                     int act_stride, cudaStream_t stream, bool programmatic) {
  return launch(silu_mul_kernel, grid_of(intermediate, rows), dim3(kThreads), 0, stream, programmatic, x, x_stride,
                interleaved, intermediate, act, act_stride);
}

cudaError_t add_bias(float* y, int y_stride, int rows, int n, const Weights& weights, size_t bias_offset,
                     cudaStream_t stream, bool programmatic) {
  return launch(add_bias_kernel, grid_of(n, rows), dim3(kThreads), 0, stream, programmatic, y, y_stride, n, weights,
                bias_offset);
}

cudaError_t norm_heads(float* qkv, int stride, int rows, int heads, int kv_heads, int head_dim, const Weights& weights,
                       size_t query_norm_offset, size_t key_norm_offset, float epsilon, cudaStream_t stream,
                       bool programmatic) {
  const int warps = kThreads / 32;
  return launch(norm_heads_kernel, dim3((heads + kv_heads + warps - 1) / warps, rows), dim3(kThreads), 0, stream,
                programmatic, qkv, stride, heads, kv_heads, head_dim, weights, query_norm_offset, key_norm_offset,
                epsilon);
}

}  // namespace millrace::cuda
