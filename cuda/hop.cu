// Few blocks: they poll while the CPU computes, and a link is filled by four.
#include "cuda/hop.h"

#include <algorithm>

#include "cuda/common.cuh"

namespace millrace::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocks = 16;

__global__ void set_unit_kernel(const std::byte** units, int unit, const std::byte* slab) {
  units[unit] = slab;
}

__global__ void send_kernel(const float* x, int64_t elements, float* rows, HopState* state, const uint64_t* base,
                            uint64_t offset, unsigned* arrived) {
  wait_for_predecessor();
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < elements / 4; i += stride) {
    reinterpret_cast<float4*>(rows)[i] = reinterpret_cast<const float4*>(x)[i];
  }
  const int64_t tail = elements / 4 * 4 + int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (tail < elements) rows[tail] = x[tail];
  __threadfence_system();
  __syncthreads();
  if (threadIdx.x != 0) return;
  if (atomicAdd(arrived, 1u) + 1 < gridDim.x) return;
  *arrived = 0;
  __threadfence_system();
  *reinterpret_cast<volatile uint64_t*>(&state->sent) = *base + offset;
}

__global__ void receive_kernel(float* x, int64_t elements, const float* rows, const HopState* state,
                               const uint64_t* base, uint64_t offset) {
  wait_for_predecessor();
  if (threadIdx.x == 0) {
    const uint64_t ticket = *base + offset;
    for (;;) {
      const ulonglong2 seen =
          __ldcv(reinterpret_cast<const ulonglong2*>(state));  // sent, given_up: one read of the link
      if (seen.x >= ticket || seen.y != 0) break;
#if __CUDA_ARCH__ >= 700
      __nanosleep(100);
#endif
    }
    __threadfence_system();
  }
  __syncthreads();
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < elements / 4; i += stride) {
    reinterpret_cast<float4*>(x)[i] = __ldcv(reinterpret_cast<const float4*>(rows) + i);
  }
  const int64_t tail = elements / 4 * 4 + int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (tail < elements) x[tail] = __ldcv(rows + tail);
}

int blocks_for(int64_t elements) {
  return static_cast<int>(std::clamp<int64_t>((elements + 4 * kThreads - 1) / (4 * kThreads), 1, kBlocks));
}

}  // namespace

cudaError_t set_unit(const std::byte** units, int unit, const std::byte* slab, cudaStream_t stream) {
  return launch(set_unit_kernel, 1, 1, 0, stream, false, units, unit, slab);
}

cudaError_t send_rows(const float* x, int count, int width, float* rows, HopState* state, const uint64_t* base,
                      uint64_t offset, unsigned* arrived, cudaStream_t stream) {
  const int64_t elements = int64_t{count} * width;
  return launch(send_kernel, blocks_for(elements), kThreads, 0, stream, true, x, elements, rows, state, base, offset,
                arrived);
}

cudaError_t receive_rows(float* x, int count, int width, const float* rows, const HopState* state, const uint64_t* base,
                         uint64_t offset, cudaStream_t stream) {
  const int64_t elements = int64_t{count} * width;
  return launch(receive_kernel, blocks_for(elements), kThreads, 0, stream, true, x, elements, rows, state, base,
                offset);
}

}  // namespace millrace::cuda
