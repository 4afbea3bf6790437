#pragma once
// What is small: a step's inputs, and hidden rows between the GPU and the CPU in the middle of a pass, by kernels on
// mapped pinned memory. A copy waits for all slabs that are enqueued before it, on whichever stream (MEASURED: a step's
// inputs for 5 ms, as long as a ring of four feed-forwards of an 8B model takes to fill). Rows go between GPUs the same
// way, or straight into the other's memory; there events keep the order.
#include <cuda_runtime.h>

#include <cstdint>

#include "backend/backend.h"

namespace millrace::cuda {

// Table of units: units[unit] = slab, in the stream's order.
//   late_us  for tests: microseconds that the next kernel, if it may begin early, has before the address is there
cudaError_t set_unit(const std::byte** units, int unit, const std::byte* slab, cudaStream_t stream, int late_us = 0);

// Parts of a block of host memory, each on 16 bytes.
struct HostPieces {
  static constexpr int kMost = 8 + kMostKvClasses;
  struct Piece {
    uint32_t offset = 0, bytes = 0;
  };
  Piece pieces[kMost];
  int count = 0;
};

// to[piece] = from[piece], whole 16 bytes at a time.
//   from  device address of mapped host memory
cudaError_t bring(const std::byte* from, std::byte* to, const HostPieces& pieces, cudaStream_t stream);

// rows[r, :] = x[r, :] for `count` rows of float32, then state->sent = *base + offset, seen by the CPU in that order.
//   rows, state  device addresses of mapped host memory
//   base         on the device
//   arrived      on the device, 0; left 0
cudaError_t send_rows(const float* x, int count, int width, float* rows, HopState* state, const uint64_t* base,
                      uint64_t offset, unsigned* arrived, cudaStream_t stream);

// Waits until state->sent >= *base + offset, or the pass was given up; then x[r, :] = rows[r, :].
cudaError_t receive_rows(float* x, int count, int width, const float* rows, const HopState* state, const uint64_t* base,
                         uint64_t offset, cudaStream_t stream);

// to[r, :] = from[r, :] for `count` rows of float32. One of them may be mapped host memory, or another GPU's.
cudaError_t move_rows(const float* from, int count, int width, float* to, cudaStream_t stream);

}  // namespace millrace::cuda
