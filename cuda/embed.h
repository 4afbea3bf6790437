#pragma once
// Embedding rows, gathered by the GPU from the table in host memory.
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "model/slab_layout.h"

namespace millrace::cuda {

// out[i, :] = float(table[tokens[i], :]), zeros where tokens[i] < 0.
//   table   [vocab, hidden] of `type` (f16, bf16, f32): pinned host memory through its device address, or device memory
//   tokens  [rows] on the device; below vocab
//   out     float32 [rows, stride]
cudaError_t embed(const std::byte* table, WeightType type, const int32_t* tokens, int rows, int hidden, float* out,
                  int64_t stride, cudaStream_t stream, bool programmatic);

// tokens[r] = max(chosen[from[r]], 0) where from[r] >= 0: what the pass before chose, without the host.
//   from    [rows] on the device, indices into `chosen`, or -1
//   chosen  on the device or in mapped host memory; negative where nothing was chosen
cudaError_t feed_tokens(const int32_t* from, const int32_t* chosen, int rows, int32_t* tokens, cudaStream_t stream);

}  // namespace millrace::cuda
