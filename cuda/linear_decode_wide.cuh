#pragma once
// linear_decode for many rows on Hopper: linear_decode_wide_sm90.cu.
#include "cuda/linear_decode.cuh"

namespace millrace::cuda {

inline constexpr int kWideBlocks = 2;  // row blocks of a thread block
inline constexpr int kWideParts = 4;   // at most: clusters of 8 left too many SMs idle
// From where on it is the faster one (linear_decode_bench wide): rows of a launch, and the size of the matrix.
inline constexpr int kWideFrom = 33;
inline constexpr int kWideLeastBlocks = 64, kWideLeastChunks = 32;

// Whether this build and the current device have it. `parts`: thread blocks that share a row block's chunks.
bool linear_decode_wide_supported();
cudaError_t launch_decode_wide(const DecodeTask& task, bool zeros, int parts, cudaStream_t stream, bool programmatic);
cudaError_t prepare_decode_wide();

}  // namespace millrace::cuda
