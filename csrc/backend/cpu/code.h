// How weights of the integer codes become numbers on the CPU: one trait a plane of bits, and one reader of what groups
// have. Used by the kernels of every instruction set, over its Words (words_*.h). Everything is in an unnamed
// namespace: each file that includes this keeps its own code.
//
// Words are int32 lanes [t][j] of one g of a tile, W::kTs of the four t at once. A plane gives the pairs of int16 of A
// registers 0..3 (slab_layout.h), none negative: levels before their zero is taken off.
#include <cstddef>
#include <cstdint>

#include "backend/cpu/linear_kernels.h"
#include "model/code.h"

namespace millrace {
namespace {

template <class W>
struct Plane4 {
  using V = typename W::V;
  static constexpr int kTileBytes = 512;
  explicit Plane4(const Code&) {}
  static void pairs(const std::byte* tile, int g, int first, V (&w)[4]) {
    const V line = W::load(tile + (4 * g + first) * 16);
    w[0] = W::mask(line, 0x000f000f);
    w[1] = W::mask(W::template right<4>(line), 0x000f000f);
    w[2] = W::mask(W::template right<8>(line), 0x000f000f);
    w[3] = W::mask(W::template right<12>(line), 0x000f000f);
  }
};

// Four bits that choose one of 16 bytes.
template <class W>
struct PlaneTable {
  using V = typename W::V;
  static constexpr int kTileBytes = 512;
  explicit PlaneTable(const Code& code) {
    uint8_t bytes[16];
    for (int i = 0; i < 16; i++) bytes[i] = static_cast<uint8_t>(code.table[i] + kTableZero);
    table = W::table(bytes);
  }
  void pairs(const std::byte* tile, int g, int first, V (&w)[4]) const {
    Plane4<W>::pairs(tile, g, first, w);
    MILLRACE_UNROLL(4)
    for (int i = 0; i < 4; i++) w[i] = W::mask(W::look_up(table, w[i]), 0x00ff00ff);
  }
  typename W::Table table;
};

template <class W>
struct Plane6 {
  using V = typename W::V;
  static constexpr int kTileBytes = 768;
  explicit Plane6(const Code&) {}
  static void pairs(const std::byte* tile, int g, int first, V (&w)[4]) {
    Plane4<W>::pairs(tile, g, first, w);
    const V high = W::load_fields(tile + 512 + (4 * g + first) * 8);
    w[0] = W::either(w[0], W::template left<4>(W::mask(high, 0x00030003)));
    w[1] = W::either(w[1], W::mask(high, 0x00300030));
    w[2] = W::either(w[2], W::template left<2>(W::mask(high, 0x000c000c)));
    w[3] = W::either(w[3], W::template right<2>(W::mask(high, 0x00c000c0)));
  }
};

template <class W>
struct Plane8 {
  using V = typename W::V;
  static constexpr int kTileBytes = 1024;
  explicit Plane8(const Code&) {}
  static void pairs(const std::byte* tile, int g, int first, V (&w)[4]) {
    MILLRACE_UNROLL(2)
    for (int pair = 0; pair < 2; pair++) {
      const V line = W::load(tile + 512 * pair + (4 * g + first) * 16);
      w[2 * pair] = W::mask(line, 0x00ff00ff);
      w[2 * pair + 1] = W::mask(W::template right<8>(line), 0x00ff00ff);
    }
  }
};

inline float float_of_bits(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}

// An e4m3 number that is none of the NaNs.
inline float float_of_e4m3(uint8_t bits) {
  return float_of_bits((bits & 0x80u) << 24 | (bits & 0x7fu) << 20) * 0x1p120f;
}

// What a group has, in the order of tile_index(): weight = scale * (written - zero) + minimum.
struct GroupHeader {
  alignas(64) float scale[kTileN];
  alignas(64) float minimum[kTileN];
  alignas(64) int32_t zero[kTileN];
  alignas(64) float span_scale[kTileN];
  alignas(64) float span_minimum[kTileN];
};

// Once a matrix: what no group changes.
inline void begin_header(const Code& code, GroupHeader& h) {
  const int zero = code.levels == Levels::table ? kTableZero : code.zero;
  for (int i = 0; i < kTileN; i++) {
    h.minimum[i] = 0.0f;
    h.zero[i] = zero;
  }
}

template <class W>
inline void read_span(const Code& code, const std::byte* p, GroupHeader& h) {
  if (code.scales == Scales::nv) {
    __builtin_memcpy(h.span_scale, p, sizeof(h.span_scale));
    return;
  }
  W::halves(p, h.span_scale);
  if (code.offsets == Offsets::two_level) W::halves(p + 2 * kTileN, h.span_minimum);
}

template <class W>
inline void read_header(const Code& code, const std::byte* p, bool zeros, bool bfloat16, GroupHeader& h) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(p);
  const auto* numbers = reinterpret_cast<const int8_t*>(p);
  switch (code.scales) {
    case Scales::half:
      if (bfloat16) {
        for (int i = 0; i < kTileN; i++) {
          h.scale[i] = float_of_bits(static_cast<uint32_t>(bytes[2 * i] | bytes[2 * i + 1] << 8) << 16);
        }
      } else {
        W::halves(p, h.scale);
      }
      break;
    case Scales::f32:
      __builtin_memcpy(h.scale, p, sizeof(h.scale));
      break;
    case Scales::e8m0:
      for (int i = 0; i < kTileN; i++) {
        const uint32_t e = bytes[i];
        h.scale[i] = float_of_bits(e > 1 ? (e - 1) << 23 : 0x00200000u << e);
      }
      break;
    case Scales::two_level:
      for (int i = 0; i < kTileN; i++) h.scale[i] = h.span_scale[i] * static_cast<float>(numbers[i]);
      break;
    case Scales::nv:
      for (int i = 0; i < kTileN; i++) h.scale[i] = h.span_scale[i] * float_of_e4m3(bytes[i]);
      break;
    case Scales::none:
      break;
  }
  const int at = kTileN * code.scale_bytes();
  if (code.offsets == Offsets::minimum) {
    W::halves(p + at, h.minimum);
  } else if (code.offsets == Offsets::two_level) {
    for (int i = 0; i < kTileN; i++) h.minimum[i] = h.span_minimum[i] * static_cast<float>(numbers[at + i]);
  } else if (zeros) {
    for (int i = 0; i < kTileN; i++) h.zero[i] = bytes[at + i];
  }
}

}  // namespace
}  // namespace millrace
