#pragma once
// How fast this GPU's memory can be read: the limit that figures are printed beside.
#include <cuda_runtime_api.h>

#include <cstddef>

namespace millrace::cuda {

// Reads `bytes` (a multiple of 16) at `data` once. `sink`: one word, so that no compiler finds the reads to be of no
// use.
cudaError_t read_memory(const std::byte* data, size_t bytes, unsigned* sink, cudaStream_t stream);

}  // namespace millrace::cuda
