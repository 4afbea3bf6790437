// Few blocks, beside a pass that computes: what they have in flight, 256 KB, is more than the link's latency holds.
#include "cuda/pieces.h"

#include <algorithm>

#include "cuda/common.cuh"

namespace millrace::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocks = 16;
constexpr int kInFlight = 4;
constexpr int kMost = 224;  // of a launch: its parameters are 4 KB

struct Pieces {
  CopyPiece pieces[kMost];
};

__global__ __launch_bounds__(kThreads) void copy_pieces_kernel(Pieces all, int count, int64_t units) {
  for (int piece = blockIdx.x; piece < count; piece += gridDim.x) {
    const auto* from = reinterpret_cast<const uint4*>(all.pieces[piece].from);
    auto* to = reinterpret_cast<uint4*>(all.pieces[piece].to);
    for (int64_t begin = threadIdx.x; begin < units; begin += kInFlight * kThreads) {
      uint4 held[kInFlight];
#pragma unroll
      for (int i = 0; i < kInFlight; i++) {
        const int64_t at = begin + i * kThreads;
        if (at < units) held[i] = __ldcv(from + at);  // the host's memory: past the caches
      }
#pragma unroll
      for (int i = 0; i < kInFlight; i++) {
        const int64_t at = begin + i * kThreads;
        if (at < units) to[at] = held[i];
      }
    }
  }
}

}  // namespace

cudaError_t copy_pieces(std::span<const CopyPiece> pieces, size_t bytes, cudaStream_t stream) {
  if (bytes % sizeof(uint4) != 0) return cudaErrorInvalidValue;
  Pieces some;
  for (size_t begin = 0; begin < pieces.size(); begin += kMost) {
    const auto part = pieces.subspan(begin, std::min<size_t>(kMost, pieces.size() - begin));
    std::copy(part.begin(), part.end(), some.pieces);
    const int count = static_cast<int>(part.size());
    const cudaError_t status = launch(copy_pieces_kernel, std::min(count, kBlocks), kThreads, 0, stream, false, some,
                                      count, static_cast<int64_t>(bytes / sizeof(uint4)));
    if (status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

}  // namespace millrace::cuda
