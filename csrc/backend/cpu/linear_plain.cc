// Linears in plain C++: the fallback, and what the other instruction sets are tested with.
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "backend/cpu/linear_kernels.h"
#include "core/half.h"
#include "model/slab_layout.h"

namespace millrace {

namespace {

void quantize(const float* x, int count, int16_t* q, float* scale, int32_t* sum) {
  uint32_t largest = 0;
  for (int i = 0; i < count; i++) {
    const uint32_t magnitude = std::bit_cast<uint32_t>(x[i]) & 0x7fffffffu;
    largest = magnitude > largest ? magnitude : largest;
  }
  const float max_abs = std::bit_cast<float>(largest);
  if (largest >= 0x7f800000u || max_abs < kLinearTinyBlock) {
    *scale = largest >= 0x7f800000u ? std::numeric_limits<float>::quiet_NaN() : 0.0f;
    *sum = 0;
    std::memset(q, 0, static_cast<size_t>(count) * sizeof(int16_t));
    return;
  }
  const float inverse = 32767.0f / max_abs;
  int32_t total = 0;
  for (int i = 0; i < count; i++) {
    // Adding 1.5 * 2^23 rounds to nearest even and leaves the integer in the low mantissa bits.
    const int32_t value = std::bit_cast<int32_t>(x[i] * inverse + 0x1.8p23f) - 0x4b400000;
    q[i] = static_cast<int16_t>(value);
    total += value;
  }
  *scale = max_abs / 32767.0f;
  *sum = total;
}

void q4(const Q4RowBlock& a) {
  const std::byte* p = a.weights;
  const int16_t* x = a.x;
  const float* x_scales = a.scales;
  const int32_t* x_sums = a.sums;
  std::memset(a.out, 0, static_cast<size_t>(a.rows) * kTileN * sizeof(float));
  for (int tile = 0; tile < a.slices; tile += a.group_tiles) {
    float scales[kTileN];
    int32_t zeros[kTileN];
    for (int i = 0; i < kTileN; i++) {
      uint16_t bits;
      std::memcpy(&bits, p + 2 * i, 2);
      scales[i] = a.bf16_scales ? bfloat16_to_float(bits) : half_to_float(bits);
      zeros[i] = a.zeros ? static_cast<int32_t>(p[2 * kTileN + i]) : 8;
    }
    p += kTileN * (a.zeros ? 3 : 2);
    const int group_end = tile + a.group_tiles < a.slices ? tile + a.group_tiles : a.slices;
    for (int begin = tile; begin < group_end; begin += a.block_tiles) {
      const int tiles = group_end - begin < a.block_tiles ? group_end - begin : a.block_tiles;
      for (int row = 0; row < a.rows; row++) {
        const int16_t* xr = x + static_cast<ptrdiff_t>(row) * tiles * kTileK;
        for (int g = 0; g < 8; g++) {
          int32_t low[4] = {}, high[4] = {};  // h 0 and h 1 of each j
          for (int s = 0; s < tiles; s++) {
            for (int t = 0; t < 4; t++) {
              const int32_t x0 = xr[s * kTileK + 2 * t], x1 = xr[s * kTileK + 2 * t + 1];
              const int32_t x8 = xr[s * kTileK + 2 * t + 8], x9 = xr[s * kTileK + 2 * t + 9];
              uint32_t words[4];
              std::memcpy(words, p + static_cast<size_t>(s) * kQ4TileBytes + (4 * g + t) * 16, 16);
              for (int j = 0; j < 4; j++) {
                const auto nibble = [w = words[j]](int i) { return static_cast<int32_t>((w >> (4 * i)) & 15u); };
                low[j] += nibble(0) * x0 + nibble(4) * x1 + nibble(2) * x8 + nibble(6) * x9;
                high[j] += nibble(1) * x0 + nibble(5) * x1 + nibble(3) * x8 + nibble(7) * x9;
              }
            }
          }
          float* out = a.out + row * kTileN + 8 * g;
          for (int i = 0; i < 8; i++) {
            const int32_t sum = (i < 4 ? low[i] : high[i - 4]) - zeros[8 * g + i] * x_sums[row];
            out[i] += static_cast<float>(sum) * (scales[8 * g + i] * x_scales[row]);
          }
        }
      }
      p += static_cast<size_t>(tiles) * kQ4TileBytes;
      x += static_cast<ptrdiff_t>(a.rows) * tiles * kTileK;
      x_scales += a.rows;
      x_sums += a.rows;
    }
  }
}

struct F16 {
  using Element = uint16_t;
  static float load(uint16_t bits) { return half_to_float(bits); }
};
struct Bf16 {
  using Element = uint16_t;
  static float load(uint16_t bits) { return bfloat16_to_float(bits); }
};
struct F32 {
  using Element = float;
  static float load(float value) { return value; }
};

template <typename Type>
void dense(const DenseRowBlock& a) {
  constexpr int kTile = kTileN * kTileK;
  float sums[kLinearDenseRows][32][8];  // (j, g) by the eight elements of a lane
  std::memset(sums, 0, sizeof(sums[0]) * static_cast<size_t>(a.rows));
  for (int s = 0; s < a.slices; s++) {
    typename Type::Element raw[kTile];
    std::memcpy(raw, a.weights + static_cast<size_t>(s) * sizeof(raw), sizeof(raw));
    float w[kTile];
    for (int i = 0; i < kTile; i++) w[i] = Type::load(raw[i]);
    for (int row = 0; row < a.rows; row++) {
      const float* x = a.x + row * a.x_stride + s * 32;
      for (int jg = 0; jg < 32; jg++) {
        for (int t = 0; t < 4; t++) {
          for (int i = 0; i < 8; i++) sums[row][jg][i] += w[(jg * 4 + t) * 8 + i] * x[t * 8 + i];
        }
      }
    }
  }
  for (int row = 0; row < a.rows; row++) {
    for (int jg = 0; jg < 32; jg++) {
      const float* e = sums[row][jg];
      float* out = a.out + row * kTileN + 8 * (jg % 8) + jg / 8;
      out[0] = (e[0] + e[1]) + (e[4] + e[5]);
      out[4] = (e[2] + e[3]) + (e[6] + e[7]);
    }
  }
}

}  // namespace

const LinearKernels kLinearPlain = {"plain", 8, quantize, q4, dense<F16>, dense<Bf16>, dense<F32>};

}  // namespace millrace
