#pragma once
// linear_decode for many rows on Hopper: linear_decode_wide_sm90.cu.
#include "cuda/linear_decode.cuh"

namespace millrace::cuda {

// How k is cut into parts, which a row's bits depend on: for so many row blocks a thread block, into so many at most.
inline constexpr int kWideBlocks = 2;
inline constexpr int kWideParts = 4;
// From where on it is the faster one (linear_decode_bench wide): rows of a launch, and the size of the matrix.
inline constexpr int kWideFrom = 33;
inline constexpr int kWideLeastBlocks = 64, kWideLeastChunks = 32;

// Whether this build and the current device have it. `parts`: runs of turns that a row block's chunks are cut into.
bool linear_decode_wide_supported();
cudaError_t launch_decode_wide(const DecodeTask& task, bool zeros, int parts, cudaStream_t stream, bool programmatic);
cudaError_t prepare_decode_wide();

}  // namespace millrace::cuda
