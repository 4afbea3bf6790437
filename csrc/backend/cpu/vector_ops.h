#pragma once
// Row-wise operations around the linears: norm, rotary embedding, KV append, embedding rows. Each row's arithmetic
// depends on the row alone and is the same in every instruction set.
#include <cstdint>

namespace millrace {

struct VectorOps {
  // out[i] = x[i] / sqrt(mean(x^2) + epsilon) * weight[i] (Zhang & Sennrich 2019, arXiv:1910.07467); the squares are
  // summed in float64.
  void (*rms_norm)(const float* x, const float* weight, int width, double epsilon, float* out);
  // Rotates `heads` heads of head_dim in place by one position's row of rope_table.
  void (*rope)(float* x, int heads, int head_dim, const float* table);
  // Rounds to float16, to nearest even.
  void (*to_half)(const float* source, int count, uint16_t* destination);
  // Widens float16 or bfloat16.
  void (*from_half)(const uint16_t* source, int count, float* destination);
  void (*from_bfloat16)(const uint16_t* source, int count, float* destination);
};

extern const VectorOps vector_ops_plain;
#if defined(__x86_64__)
extern const VectorOps vector_ops_avx2;
extern const VectorOps vector_ops_avx512;
#endif

// For the instruction set that linear.h's selected_kernels() names.
const VectorOps& vector_ops();

}  // namespace millrace
