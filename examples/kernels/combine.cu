// A kernel of your own in the place of combine: the weighted sum of what a row's experts answered.
//   nvcc --cubin -arch=sm_90 -std=c++17 -I ../../csrc/lab combine.cu -o combine.cubin
//   millrace bench kernel --op combine --shape qwen3-30b-a3b --cubin combine.cubin --verify
//
// A thread has a feature of a row. Products and sums are rounded each by itself, in the order of ranks: ours are too,
// so a model gives the same tokens with either.
#include "millrace_kernel.h"

constexpr int kThreads = 128;

extern "C" __device__ const struct millrace_launch combine_launch = {
    kThreads,  // threads
    kThreads,  // features_per_block
    1,         // rows_per_block
    0,         // shared_bytes
    0,         // programmatic
    {0, 0, 0},
};

extern "C" __global__ void __launch_bounds__(kThreads) combine(const millrace_combine a) {
  const int feature = blockIdx.x * kThreads + threadIdx.x, row = blockIdx.y;
  if (feature >= a.width) return;
  float sum = 0;
  if (a.positions[row] >= 0) {
    const float* weights = a.routes + static_cast<size_t>(row) * 2 * a.top_k + a.top_k;
    const float* answers = a.answers + static_cast<size_t>(row) * a.top_k * a.width + feature;
    for (int rank = 0; rank < a.top_k; rank++) {
      sum = __fadd_rn(sum, __fmul_rn(weights[rank], answers[static_cast<size_t>(rank) * a.width]));
    }
  }
  float* out = a.out + static_cast<size_t>(row) * a.out_stride + feature;
  *out = a.adds ? __fadd_rn(*out, __fmul_rn(a.scale, sum)) : sum;
}
