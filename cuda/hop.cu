// Few blocks: they poll while the CPU computes, and a link is filled by four.
#include "cuda/hop.h"

#include <algorithm>

#include "cuda/common.cuh"

namespace millrace::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocks = 16;

__global__ void set_unit_kernel(const std::byte** units, int unit, const std::byte* slab, int64_t late_cycles) {
  if (late_cycles > 0) {  // for tests: a successor that may begin early does, and finds the old address
    allow_successor();
    for (const int64_t begin = clock64(); clock64() - begin < late_cycles;) {
    }
  }
  units[unit] = slab;
}

__global__ void bring_kernel(const std::byte* from, std::byte* to, HostPieces all) {
  wait_for_predecessor();
  const HostPieces::Piece piece = all.pieces[blockIdx.y];
  for (uint32_t at = (blockIdx.x * kThreads + threadIdx.x) * 16; at < piece.bytes; at += gridDim.x * kThreads * 16) {
    *reinterpret_cast<uint4*>(to + piece.offset + at) =
        __ldcv(reinterpret_cast<const uint4*>(from + piece.offset + at));
  }
}

// The grid copies what others may have written meanwhile: past the caches.
__device__ __forceinline__ void copy_fresh(const float* from, int64_t elements, float* to) {
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < elements / 4; i += stride) {
    reinterpret_cast<float4*>(to)[i] = __ldcv(reinterpret_cast<const float4*>(from) + i);
  }
  const int64_t tail = elements / 4 * 4 + int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (tail < elements) to[tail] = __ldcv(from + tail);
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
  copy_fresh(rows, elements, x);
}

__global__ void move_kernel(const float* from, int64_t elements, float* to) {
  wait_for_predecessor();
  copy_fresh(from, elements, to);
}

int blocks_for(int64_t elements, int most = kBlocks) {
  return static_cast<int>(std::clamp<int64_t>((elements + 4 * kThreads - 1) / (4 * kThreads), 1, most));
}

}  // namespace

cudaError_t set_unit(const std::byte** units, int unit, const std::byte* slab, cudaStream_t stream, int late_us) {
  constexpr int64_t kCyclesPerMicrosecond = 2000;
  return launch(set_unit_kernel, 1, 1, 0, stream, false, units, unit, slab, kCyclesPerMicrosecond * late_us);
}

cudaError_t bring(const std::byte* from, std::byte* to, const HostPieces& pieces, cudaStream_t stream) {
  uint32_t most = 0;
  for (int i = 0; i < pieces.count; i++) most = std::max(most, pieces.pieces[i].bytes);
  const dim3 grid(blocks_for(most / sizeof(float)), pieces.count);
  return launch(bring_kernel, grid, dim3(kThreads), 0, stream, false, from, to, pieces);
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

cudaError_t move_rows(const float* from, int count, int width, float* to, cudaStream_t stream) {
  constexpr int kMoveBlocks = 128;  // nobody polls: as many as a link between GPUs needs
  const int64_t elements = int64_t{count} * width;
  return launch(move_kernel, blocks_for(elements, kMoveBlocks), kThreads, 0, stream, true, from, elements, to);
}

}  // namespace millrace::cuda
