#pragma once
// The arithmetic of experts whose weights are integers or entries of tables (Code::integer()), operation by operation:
// the CPU and a GPU's decode make the same bits of it, so that who computes an expert never shows.
//
// y[n] of a row of x, which is float16:
//
//   stored input features ->  chunk 0 | chunk 1 | ...  whose x is  q * scale, q of 16 bits, scale a power of two
//                             group   | group   | ...
//   of a group (or of its part in a chunk)  sum = the integers' exact sum over (level - zero) * q
//                                           part = float(sum) * (weight's scale * x's scale)
//                                           and of codes with minimums  minimum * (float(sum of q) * x's scale)
//   run  = the parts of neighbouring chunks, added from zero in their order, each operation rounded by itself
//   y[n] = the runs, added from zero in their order; then the bias
//
// Chunks and runs follow from the matrix alone (expert_order()). float(sum) rounds to nearest. Powers of two in the
// place of the largest |x| / 32767: no division, and products with them are exact, so that a device may take
// float(sum) * weight's scale first and multiply and add with x's scale in one instruction.
//
// Gate and up become silu(gate) * up or the clamped form below, then float16 (the nearest, infinities the largest).
#include <cstdint>

#include "model/matrix_layout.h"

#if defined(__CUDACC__)
#define MILLRACE_EXPERT_FUNCTION __host__ __device__ __forceinline__
#else
#define MILLRACE_EXPERT_FUNCTION inline
#endif

namespace millrace {

// ---- The order of sums

inline constexpr int kExpertRuns = 8;  // at most

// Tiles of 16 stored input features of a chunk, at most.
constexpr int expert_chunk_tiles(WeightType type) {
  return code_of(type).bits == 4 ? 8 : 4;
}

struct ExpertOrder {
  int chunk = 0;  // tiles
  int group = 0;  // tiles; chunks lie within a group where it is larger than a chunk, or does not divide one
  bool in_groups = false;
  int run = 0;  // tiles: whole chunks, and whole groups
};
inline ExpertOrder expert_order(const MatrixLayout& m) {
  ExpertOrder order;
  order.chunk = expert_chunk_tiles(m.code.type);
  order.group = m.code.group / kTileK;
  // (Of q4 alone; a group of one tile is a chunk of its own.)
  order.in_groups = m.code.type == WeightType::q4 && (order.group == 1 || order.chunk % order.group != 0);
  const int unit = order.in_groups ? order.group : order.chunk;
  const int units = (m.slices() + unit - 1) / unit;
  order.run = (units + kExpertRuns - 1) / kExpertRuns * unit;
  return order;
}

// ---- x

// The larger of two magnitudes' bits is that of the larger number. Of a chunk's largest |x| as float32's bits: the
// exponent from which its scale is made, and the factor by which x becomes q, |q| < 2^15.
MILLRACE_EXPERT_FUNCTION uint32_t expert_exponent(uint32_t largest) {
  const uint32_t exponent = largest >> 23;
  return exponent < 103 ? 103 : exponent;  // 2^-24 is the least float16; of zeros any scale will do
}
// Bits of float32 numbers. Where x is not finite the scale is NaN, and so is what depends on it.
MILLRACE_EXPERT_FUNCTION uint32_t expert_scale_bits(uint32_t exponent) {
  return exponent >= 255 ? 0x7fc00000u : (exponent - 14) << 23;
}
MILLRACE_EXPERT_FUNCTION uint32_t expert_factor_bits(uint32_t exponent) {
  return (268 - exponent) << 23;
}

// ---- Activations

#if defined(__CUDA_ARCH__)
#define MILLRACE_EXPERT_MUL(a, b) __fmul_rn(a, b)
#define MILLRACE_EXPERT_ADD(a, b) __fadd_rn(a, b)
#define MILLRACE_EXPERT_DIV(a, b) __fdiv_rn(a, b)
#else  // compiled without contraction
#define MILLRACE_EXPERT_MUL(a, b) ((a) * (b))
#define MILLRACE_EXPERT_ADD(a, b) ((a) + (b))
#define MILLRACE_EXPERT_DIV(a, b) ((a) / (b))
#endif

// 1 / (1 + e^-x) times y: relative error below 1e-6 where the result is above 1e-35. Written so that loops over it
// become vector code.
MILLRACE_EXPERT_FUNCTION float expert_sigmoid_of(float x, float y) {
  // -x = n ln 2 + r, n the nearest integer by adding 1.5 * 2^23, ln 2 in two parts of which n * the first is exact;
  // then Taylor's polynomial of e^r, times 2^n.
  float t = -x;
  t = t > 88.0f ? 88.0f : t;
  t = t < -87.0f ? -87.0f : t;
  const float shifted = MILLRACE_EXPERT_ADD(MILLRACE_EXPERT_MUL(t, 1.44269504f), 12582912.0f);
  const float n = MILLRACE_EXPERT_ADD(shifted, -12582912.0f);
  const float high = MILLRACE_EXPERT_ADD(t, MILLRACE_EXPERT_MUL(n, -0.693359375f));
  const float r = MILLRACE_EXPERT_ADD(high, MILLRACE_EXPERT_MUL(n, 2.12194440e-4f));
  float e = MILLRACE_EXPERT_ADD(MILLRACE_EXPERT_MUL(1.98412698e-4f, r), 1.38888889e-3f);
  e = MILLRACE_EXPERT_ADD(MILLRACE_EXPERT_MUL(e, r), 8.33333333e-3f);
  e = MILLRACE_EXPERT_ADD(MILLRACE_EXPERT_MUL(e, r), 4.16666667e-2f);
  e = MILLRACE_EXPERT_ADD(MILLRACE_EXPERT_MUL(e, r), 1.66666667e-1f);
  e = MILLRACE_EXPERT_ADD(MILLRACE_EXPERT_MUL(e, r), 0.5f);
  e = MILLRACE_EXPERT_ADD(MILLRACE_EXPERT_MUL(e, r), 1.0f);
  e = MILLRACE_EXPERT_ADD(MILLRACE_EXPERT_MUL(e, r), 1.0f);
  const uint32_t power = (__builtin_bit_cast(uint32_t, shifted) - 0x4b400000u + 127u) << 23;
  e = MILLRACE_EXPERT_MUL(e, __builtin_bit_cast(float, power));
  return MILLRACE_EXPERT_DIV(y, MILLRACE_EXPERT_ADD(1.0f, e));
}
MILLRACE_EXPERT_FUNCTION float expert_silu(float gate, float up) {
  return MILLRACE_EXPERT_MUL(expert_sigmoid_of(gate, gate), up);
}
MILLRACE_EXPERT_FUNCTION float expert_clamped_swiglu(float gate, float up, float alpha, float limit) {
  gate = gate > limit ? limit : gate;
  up = up > limit ? limit : up;
  up = up < -limit ? -limit : up;
  return MILLRACE_EXPERT_MUL(expert_sigmoid_of(MILLRACE_EXPERT_MUL(alpha, gate), gate), MILLRACE_EXPERT_ADD(up, 1.0f));
}

#undef MILLRACE_EXPERT_MUL
#undef MILLRACE_EXPERT_ADD
#undef MILLRACE_EXPERT_DIV

}  // namespace millrace
