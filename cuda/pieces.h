#pragma once
// Many pieces in a launch, between a GPU's memory and mapped host memory: keys and values of preempted sequences, which
// lie apart by block and layer. A copy each would cost the host microseconds, and would wait for every slab enqueued
// before it.
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "backend/backend.h"

namespace millrace::cuda {

// pieces[i].to[0, bytes) = pieces[i].from[0, bytes), all as this GPU addresses them, on 16 bytes; `bytes` a multiple of
// 16. In no order.
cudaError_t copy_pieces(std::span<const CopyPiece> pieces, size_t bytes, cudaStream_t stream);

}  // namespace millrace::cuda
