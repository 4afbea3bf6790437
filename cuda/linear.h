#pragma once
// Linears on the GPU: y = x W^T with an epilogue, W in the slab's tile order (csrc/model/slab_layout.h). Two kinds with
// two reduction orders: decode (rows <= kDecodeRows a launch; also draft tokens to verify) and prefill (any number).
// Within a kind a row's bits depend on the matrix and on the row alone: not on the number of rows, nor on its place.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "cuda/plan/decode.h"
#include "model/matrix_layout.h"

namespace millrace::cuda {

// Weights are reached through a table in device memory, so that a captured graph serves every slot: the slab of `unit`
// is at units[unit]. With `early`, the kernel may read weights (and the table) before its predecessor in the stream has
// ended: right for resident units, wrong for ring slots, whose copy the stream still waits for.
struct Weights {
  const std::byte* const* units = nullptr;
  int unit = 0;
  bool early = false;
};

enum class LinearEpilogue : uint8_t {
  store,     // y[row, n] = v, float32
  add,       // y[row, n] += v: the residual stream
  silu_mul,  // of an interleaved gate_up: act[row, i] = half(silu(gate_i) * up_i), 0 <= i < intermediate
};

struct LinearArguments {
  Weights weights;
  MatrixLayout matrix;        // host copy; offsets from the slab's start
  const __half* x = nullptr;  // [rows, x_stride], x_stride a multiple of 8; input features in the model's order
  int x_stride = 0;
  int rows = 0;
  // Instead of x, where decode_norms: rows of float32 [rows, m.k] that the linear itself norms as rms_norm
  // would, to the bit; the norm's weights are at norm_offset of the slab.
  const float* norm_x = nullptr;
  size_t norm_offset = 0;
  float norm_epsilon = 0;
  // Launches of one x side by side, of at most kSideBySideRows rows and `early` weights: all but the first `follow` and
  // all but the last `lead`, one after the other. One that leads lets its successor begin once x is there; one that
  // follows reads x at once and ends after its predecessor, so that who waits for the last has waited for all.
  bool leads = false, follows = false;
  LinearEpilogue epilogue = LinearEpilogue::store;
  float* y = nullptr;  // store, add: [rows, y_stride] + out_begin
  int y_stride = 0;
  __half* act = nullptr;  // silu_mul: [rows, act_stride]
  int act_stride = 0;
  int intermediate = 0;
  // With a permutation: linear_gathered_bytes. Prefill needs it; decode of more than kGatherInPlaceRows takes the
  // kernels of matrices without one, where it is there.
  __half* gathered = nullptr;
};

// Bytes of LinearArguments::gathered that a launch of so many rows needs.
size_t linear_gathered_bytes(const MatrixLayout& matrix, int rows);
// Enqueues what writes LinearArguments::gathered: x in the stored order of the matrix, [rows, k_stored].
cudaError_t linear_gather(const LinearArguments& arguments, cudaStream_t stream, bool programmatic);

// 4-bit and float (f16, bf16, f32) weights. Enqueues; returns the launch's status.
cudaError_t linear_decode(const LinearArguments& arguments, cudaStream_t stream, bool programmatic);
// Loads linear_decode's kernels on the current device and sets their shared memory: once a device, before any launch.
cudaError_t linear_decode_prepare();
cudaError_t linear_prefill(const LinearArguments& arguments, cudaStream_t stream, bool programmatic);

}  // namespace millrace::cuda
