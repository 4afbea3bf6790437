// What lies between and after the experts' linears: activations that no linear makes itself, and the weighted sums.
#include "cuda/common.cuh"
#include "cuda/moe/experts.cuh"
#include "cuda/moe/experts.h"

namespace millrace::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void experts_glu_kernel(const float* y, int y_stride, bool interleaved, int features, bool clamped,
                                   float alpha, float limit, __half* act, int act_stride) {
  wait_for_predecessor();
  allow_successor();
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= features) return;
  const float* row = y + static_cast<size_t>(blockIdx.y) * y_stride;
  const int gate = interleaved ? i / 8 * 16 + i % 8 : i, up = interleaved ? gate + 8 : features + i;
  const float value =
      clamped ? expert_clamped_swiglu(row[gate], row[up], alpha, limit) : expert_silu(row[gate], row[up]);
  act[static_cast<size_t>(blockIdx.y) * act_stride + i] = saturated_half(value);
}

__global__ void combine_kernel(CombineArguments a) {
  wait_for_predecessor();
  allow_successor();
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  const int row = static_cast<int>(blockIdx.y);
  if (i >= a.width) return;
  float sum = 0.0f;
  if (a.positions[row] >= 0) {
    const float* weights = a.routes + static_cast<size_t>(row) * 2 * a.top_k + a.top_k;
    const float* from = a.y + static_cast<size_t>(row) * a.top_k * a.width + i;
    for (int rank = 0; rank < a.top_k; rank++) {
      const float part = __fmul_rn(weights[rank], from[static_cast<size_t>(rank) * a.width]);
      sum = rank == 0 ? part : __fadd_rn(sum, part);
    }
  }
  float* out = a.out + static_cast<size_t>(row) * a.out_stride + i;
  *out = a.adds ? __fadd_rn(*out, __fmul_rn(a.scale, sum)) : sum;
}

}  // namespace

cudaError_t experts_glu(const float* y, int y_stride, bool interleaved, int places, int features, const ExpertsOp& op,
                        __half* act, int act_stride, cudaStream_t stream, bool programmatic) {
  const dim3 grid((features + kThreads - 1) / kThreads, places);
  return launch(experts_glu_kernel, grid, dim3(kThreads), 0, stream, programmatic, y, y_stride, interleaved, features,
                op.activation == Activation::clamped_swiglu, op.alpha, op.limit, act, act_stride);
}

cudaError_t combine_experts(const CombineArguments& a, cudaStream_t stream, bool programmatic) {
  const dim3 grid((a.width + kThreads - 1) / kThreads, a.rows);
  return launch(combine_kernel, grid, dim3(kThreads), 0, stream, programmatic, a);
}

}  // namespace millrace::cuda
