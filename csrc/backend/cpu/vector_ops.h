#pragma once
// Row-wise operations around the linears: norm, rotary embedding, KV append, embedding rows. Each row's arithmetic
// depends on the row alone and is the same in every instruction set.
#include <cstdint>

namespace millrace {

// One row of the gated delta rule (DeltaOp in model/program.h).
struct DeltaRow {
  const float *q = nullptr, *k = nullptr;  // [key_dim], of their lengths already
  const float* v = nullptr;                // [value_dim]
  float decay = 1, beta = 0;
  float* out = nullptr;  // [value_dim]
};

struct VectorOps {
  // out[i] = x[i] / sqrt(mean(x^2) + epsilon) * weight[i] (Zhang & Sennrich 2019, arXiv:1910.07467); the squares are
  // summed in float64.
  void (*rms_norm)(const float* x, const float* weight, int width, double epsilon, float* out);
  // out[i] = x[i] * scale / sqrt(sum(x^2) + 1e-6), the squares summed in float64.
  void (*unit_length)(const float* x, int width, double scale, float* out);
  // state: [key_dim, value_dim]; sums over key_dim in ascending order.
  void (*delta_rule)(const DeltaRow& row, int key_dim, int value_dim, float* state);
  // out[i] = sum over j, ascending, of weights[j] * rows[j, i].
  void (*weighted_rows)(const float* weights, int count, const float* rows, int width, float* out);
  // In 16 lanes, then halves of them.
  float (*dot)(const float* a, const float* b, int width);
  // Rotates `heads` heads of head_dim in place by one position's row of rope_table.
  void (*rope)(float* x, int heads, int head_dim, const float* table);
  // Rounds to float16, to nearest even.
  void (*to_half)(const float* source, int count, uint16_t* destination);
  // A row of 8-bit keys or values as model/kv_type.h has it; returns the scale.
  float (*to_q8)(const float* source, int count, uint8_t* destination);
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
