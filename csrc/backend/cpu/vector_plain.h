// Sixteen floats in plain C++, for processors without a path of their own. Included by *_plain.cc files alone.
#include <bit>
#include <cstdint>

#include "core/half.h"

namespace millrace {
namespace {

constexpr int kTileQueries = 2;  // queries x positions of a tile of scores: as many sums as registers hold
constexpr int kTilePositions = 2;
constexpr int kTileChunks = 2;

struct Vec {
  float lane[16];
};

inline Vec vec_set(float value) {
  Vec out;
  for (int i = 0; i < 16; i++) out.lane[i] = value;
  return out;
}
inline Vec vec_load(const float* source) {
  Vec out;
  for (int i = 0; i < 16; i++) out.lane[i] = source[i];
  return out;
}
inline void vec_store(float* destination, const Vec& v) {
  for (int i = 0; i < 16; i++) destination[i] = v.lane[i];
}
inline Vec vec_load_half(const uint16_t* source) {
  Vec out;
  for (int i = 0; i < 16; i++) out.lane[i] = half_to_float(source[i]);
  return out;
}
// Of numbers in excess of 128.
inline Vec vec_load_q8(const uint8_t* source) {
  Vec out;
  for (int i = 0; i < 16; i++) out.lane[i] = static_cast<float>(source[i] - 128);
  return out;
}
inline void vec_store_half(uint16_t* destination, const Vec& v) {
  for (int i = 0; i < 16; i++) destination[i] = float_to_half(v.lane[i]);
}
inline Vec vec_add(const Vec& a, const Vec& b) {
  Vec out;
  for (int i = 0; i < 16; i++) out.lane[i] = a.lane[i] + b.lane[i];
  return out;
}
inline Vec vec_sub(const Vec& a, const Vec& b) {
  Vec out;
  for (int i = 0; i < 16; i++) out.lane[i] = a.lane[i] - b.lane[i];
  return out;
}
inline Vec vec_mul(const Vec& a, const Vec& b) {
  Vec out;
  for (int i = 0; i < 16; i++) out.lane[i] = a.lane[i] * b.lane[i];
  return out;
}
inline Vec vec_multiply_add(const Vec& a, const Vec& b, const Vec& c) {
  Vec out;
  for (int i = 0; i < 16; i++) out.lane[i] = a.lane[i] * b.lane[i] + c.lane[i];
  return out;
}
// The second operand where either is NaN.
inline Vec vec_max(const Vec& a, const Vec& b) {
  Vec out;
  for (int i = 0; i < 16; i++) out.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i];
  return out;
}
// a < b ? 0 : c
inline Vec vec_zero_if_less(const Vec& a, const Vec& b, const Vec& c) {
  Vec out;
  for (int i = 0; i < 16; i++) out.lane[i] = a.lane[i] < b.lane[i] ? 0.0f : c.lane[i];
  return out;
}
// v * 2^n, n being the low bits of `shifted` = n + 1.5 * 2^23.
inline Vec vec_scale(const Vec& v, const Vec& shifted) {
  Vec out;
  for (int i = 0; i < 16; i++) {
    out.lane[i] =
        std::bit_cast<float>(std::bit_cast<uint32_t>(v.lane[i]) + (std::bit_cast<uint32_t>(shifted.lane[i]) << 23));
  }
  return out;
}
// The same tree in every instruction set: halves, then halves of halves.
inline float vec_sum(const Vec& v) {
  float a[8];
  for (int i = 0; i < 8; i++) a[i] = v.lane[i] + v.lane[i + 8];
  for (int i = 0; i < 4; i++) a[i] = a[i] + a[i + 4];
  return (a[0] + a[2]) + (a[1] + a[3]);
}
inline float vec_max_lane(const Vec& v) {
  float m = v.lane[0];
  for (int i = 1; i < 16; i++) m = m > v.lane[i] ? m : v.lane[i];
  return m;
}

}  // namespace
}  // namespace millrace
