#pragma once
// Linears of the CPU twin on the slabs' tile order, in AVX-512, AVX2 and plain C++ chosen at run time.
//
// 4-bit: a row of activations is quantised to int16 per block of at most 128 stored input features (one scale a
// block), products are summed exactly in int32, and each block's sum is scaled and added in float32 in ascending
// order of k. So a row's result depends on the matrix and on the row alone, and every instruction set gives the same
// bits. Float weights: float32 sums in a fixed order of lanes, the same for any number of rows.
#include <atomic>
#include <cstdint>
#include <memory>

#include "core/thread_pool.h"
#include "model/slab_layout.h"

namespace millrace {

enum class Epilogue : uint8_t {
  store,     // y = x W^T + bias
  add,       // y += x W^T + bias (the residual stream)
  silu_mul,  // y[i] = silu(gate_i) * up_i; of a gate_up linear, interleaved or not; y is [rows, intermediate]
};

// Prepared activations and partial sums; grows to the largest call, then stays.
class LinearScratch {
 public:
  LinearScratch();
  ~LinearScratch();
  struct Data;
  Data& data() { return *data_; }

 private:
  std::unique_ptr<Data> data_;
};

// y [rows, n or intermediate] (row stride y_stride) from x float32 [rows, k] (row stride x_stride). `slab` is the
// unit's slab. `interleaved` and `intermediate` matter to silu_mul only. Adds the bytes of weights read to
// *weight_bytes: each tile once a call, whatever the number of rows.
struct LinearCall {
  const LinearLayout* layout = nullptr;
  const std::byte* slab = nullptr;
  const float* x = nullptr;
  int64_t x_stride = 0;
  int rows = 0;
  float* y = nullptr;
  int64_t y_stride = 0;
  Epilogue epilogue = Epilogue::store;
  bool interleaved = false;
  int intermediate = 0;
};
void linear(const LinearCall& call, ThreadPool& pool, LinearScratch& scratch, std::atomic<uint64_t>& weight_bytes);

// The instruction set in use, and a way for tests and benches to choose a lesser one. Names: "avx512vnni", "avx512",
// "avx2", "plain". select_kernels returns false if this processor lacks it. MILLRACE_CPU_KERNELS overrides the
// choice at start-up.
const char* selected_kernels();
bool select_kernels(const char* name);
struct LinearKernels;
const LinearKernels& linear_kernels();  // those in use

}  // namespace millrace
