#include "cuda/common.cuh"
#include "cuda/elementwise.h"
#include "cuda/norm.cuh"
#include "cuda/norm_heads.cuh"

namespace millrace::cuda {

namespace {

constexpr int kThreads = 256;

// Large activations saturate; a NaN stays one, so that the sampler sees it.
__device__ __forceinline__ __half saturated(float value) {
  return __float2half_rn(value > 65504.0f ? 65504.0f : value < -65504.0f ? -65504.0f : value);
}

__device__ __forceinline__ float activate(Activation activation, float x) {
  switch (activation) {
    case Activation::sigmoid:
      return 1.0f / (1.0f + expf(-x));
    case Activation::gelu:
      return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
    case Activation::gelu_tanh:
      return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
    default:
      return x / (1.0f + expf(-x));
  }
}

__device__ __forceinline__ void put(float value, __half* halves, float* floats, size_t at) {
  if (halves != nullptr) {
    halves[at] = saturated(value);
  } else {
    floats[at] = value;
  }
}

__global__ void glu_kernel(const float* x, int x_stride, bool interleaved, int features, Activation activation,
                           __half* halves, float* floats, int stride) {
  wait_for_predecessor();
  allow_successor();
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= features) return;
  const float* row = x + static_cast<size_t>(blockIdx.y) * x_stride;
  const int gate_at = interleaved ? i / 8 * 16 + i % 8 : i;
  const int up_at = interleaved ? gate_at + 8 : features + i;
  put(activate(activation, row[gate_at]) * row[up_at], halves, floats, static_cast<size_t>(blockIdx.y) * stride + i);
}

__global__ void gate_kernel(GateArguments a) {
  wait_for_predecessor();
  allow_successor();
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= a.features) return;
  const float value = activate(a.activation, a.x[static_cast<size_t>(blockIdx.y) * a.x_stride + (a.scalar ? 0 : i)]);
  const size_t at = static_cast<size_t>(blockIdx.y) * a.by_stride + i;
  put(value * (a.by_halves != nullptr ? __half2float(a.by_halves[at]) : a.by[at]), a.halves, a.floats,
      static_cast<size_t>(blockIdx.y) * a.stride + i);
}

__global__ void add_scaled_kernel(const float* x, float* y, int64_t count, float scale) {
  wait_for_predecessor();
  allow_successor();
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < count) y[i] = __fadd_rn(y[i], __fmul_rn(scale, x[i]));
}

__global__ void to_halves_kernel(const float* x, int x_stride, int width, __half* y, int y_stride,
                                 const int32_t* row_indices) {
  wait_for_predecessor();
  allow_successor();
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  const int row = row_indices == nullptr ? static_cast<int>(blockIdx.y) : row_indices[blockIdx.y];
  if (i >= width || row < 0) return;
  y[static_cast<size_t>(blockIdx.y) * y_stride + i] = saturated(x[static_cast<size_t>(row) * x_stride + i]);
}

__global__ void scale_kernel(ScaleArguments a) {
  wait_for_predecessor();
  allow_successor();
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= a.width) return;
  float factor = a.factor;
  if (a.weight_offset >= 0) {
    factor *= *reinterpret_cast<const float*>(a.weights.units[a.weights.unit] + a.weight_offset);
  }
  if (a.period > 0) {
    const int turns = max(a.positions[blockIdx.y], 0) / a.period;
    factor *= 1.0f + a.growth * log1pf(static_cast<float>(turns));
  }
  float* x = a.x + static_cast<size_t>(blockIdx.y) * a.stride + i;
  const float value = *x * factor;
  *x = a.cap > 0.0f ? a.cap * tanhf(value / a.cap) : value;
}

// A CTA a group: sums in an order that the width alone fixes.
__global__ __launch_bounds__(kNormThreads) void norm_groups_kernel(NormGroups a) {
  __shared__ float warp_sums[2][kNormThreads / 32];
  wait_for_predecessor();
  allow_successor();
  const int row = a.row_indices == nullptr ? static_cast<int>(blockIdx.y) : a.row_indices[blockIdx.y];
  if (row < 0) return;
  const int64_t column = int64_t{blockIdx.x} * a.width;
  const float* x = a.x + row * a.x_stride + column;
  float mean = 0.0f;
  if (a.mean) {
    float sum = 0.0f;
    for (int i = threadIdx.x; i < a.width; i += kNormThreads) sum += x[i];
    mean = norm_block_sum(sum, shared_address(warp_sums[0])) / static_cast<float>(a.width);
  }
  float squares = 0.0f;
  for (int i = threadIdx.x; i < a.width; i += kNormThreads) squares = fmaf(x[i] - mean, x[i] - mean, squares);
  const float inverse = norm_inverse(norm_block_sum(squares, shared_address(warp_sums[1])), a.width, a.epsilon);
  const std::byte* slab = a.weight_offset >= 0 || a.bias_offset >= 0 ? a.weights.units[a.weights.unit] : nullptr;
  const auto* weight = a.weight_offset >= 0 ? reinterpret_cast<const float*>(slab + a.weight_offset) : nullptr;
  const auto* bias = a.bias_offset >= 0 ? reinterpret_cast<const float*>(slab + a.bias_offset) : nullptr;
  const int64_t to = int64_t{blockIdx.y} * a.y_stride + column;
  for (int i = threadIdx.x; i < a.width; i += kNormThreads) {
    float value = (x[i] - mean) * inverse;
    if (weight != nullptr) value *= weight[i];
    if (bias != nullptr) value += bias[i];
    if (a.halves != nullptr) {
      a.halves[to + i] = saturated(value);
    } else {
      a.y[to + i] = a.add ? a.y[to + i] + value : value;
    }
  }
}

__global__ void add_bias_kernel(float* y, int y_stride, int n, Weights weights, size_t bias_offset) {
  wait_for_predecessor();
  allow_successor();
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const auto* bias = reinterpret_cast<const float*>(weights.units[weights.unit] + bias_offset);
  y[static_cast<size_t>(blockIdx.y) * y_stride + i] += bias[i];
}

// A warp a head: sums in the order of a butterfly, which head_dim alone fixes. Attention of decode rows does the same
// (attention_decode.cu).
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
  for (int i = lane; i < head_dim; i += 32) sum = fmaf(x[i], x[i], sum);
  const float scale = head_norm_scale(sum, head_dim, epsilon);
  for (int i = lane; i < head_dim; i += 32) x[i] = x[i] * scale * weight[i];
}

dim3 grid_of(int width, int rows) {
  return dim3((width + kThreads - 1) / kThreads, rows);
}

}  // namespace

cudaError_t glu(const float* x, int x_stride, bool interleaved, int rows, int features, Activation activation,
                __half* halves, float* floats, int stride, cudaStream_t stream, bool programmatic) {
  return launch(glu_kernel, grid_of(features, rows), dim3(kThreads), 0, stream, programmatic, x, x_stride, interleaved,
                features, activation, halves, floats, stride);
}

cudaError_t gate(const GateArguments& arguments, cudaStream_t stream, bool programmatic) {
  return launch(gate_kernel, grid_of(arguments.features, arguments.rows), dim3(kThreads), 0, stream, programmatic,
                arguments);
}

cudaError_t add_scaled(const float* x, float* y, int64_t count, float scale, cudaStream_t stream, bool programmatic) {
  const dim3 grid(static_cast<unsigned>((count + kThreads - 1) / kThreads));
  return launch(add_scaled_kernel, grid, dim3(kThreads), 0, stream, programmatic, x, y, count, scale);
}

cudaError_t to_halves(const float* x, int x_stride, int rows, int width, __half* y, int y_stride,
                      const int32_t* row_indices, cudaStream_t stream, bool programmatic) {
  return launch(to_halves_kernel, grid_of(width, rows), dim3(kThreads), 0, stream, programmatic, x, x_stride, width, y,
                y_stride, row_indices);
}

cudaError_t scale(const ScaleArguments& arguments, cudaStream_t stream, bool programmatic) {
  return launch(scale_kernel, grid_of(arguments.width, arguments.rows), dim3(kThreads), 0, stream, programmatic,
                arguments);
}

cudaError_t norm_groups(const NormGroups& arguments, cudaStream_t stream, bool programmatic) {
  return launch(norm_groups_kernel, dim3(arguments.groups, arguments.rows), dim3(kNormThreads), 0, stream, programmatic,
                arguments);
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
