#pragma once
// The arithmetic of the norms of heads, shared by the kernel of its own (elementwise.cu) and by attention of decode
// rows, which norms heads itself: the same sums in the same order, so the same bits.
#include "cuda/common.cuh"

namespace millrace::cuda {

// The factor of a head, by a warp of whose lanes each has summed the squares of elements lane, lane + 32, ... in order.
__device__ __forceinline__ float head_norm_scale(float squares, int head_dim, float epsilon) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) squares += __shfl_xor_sync(~0u, squares, d);
  return rsqrtf(squares / static_cast<float>(head_dim) + epsilon);
}

}  // namespace millrace::cuda
