#pragma once
// How weights are written in slabs: one row of traits a code, which everything that lays out, encodes, decodes, plans
// and multiplies looks up. A weight of a grouped code is
//
//   scale * (level - zero)     or, with minimums,     scale * level + minimum
//
// with `level` what its bits stand for: the integer itself, an entry of a table of 16 integers, or an e4m3 number.
#include <cstddef>
#include <cstdint>

namespace millrace {

inline constexpr int kTileN = 64;  // output features of a tile, and of a row block
inline constexpr int kTileK = 16;  // input features of a tile

// The order is part of the contract of kernels (lab/millrace_kernel.h).
enum class WeightType : uint8_t {
  q4,
  f16,
  bf16,
  f32,
  q8,
  q4_1,
  q5_0,
  q5_1,
  q2_k,
  q3_k,
  q4_k,
  q5_k,
  q6_k,
  iq4_nl,
  iq4_xs,
  mxfp4,
  nvfp4,
  fp8,
  last = fp8
};
inline constexpr int kWeightTypes = static_cast<int>(WeightType::last) + 1;

enum class Levels : uint8_t { floats, integer, table, e4m3 };
enum class Scales : uint8_t {
  none,
  half,       // float16 or bfloat16 a group, by MatrixCode::scale
  f32,        // a group
  e8m0,       // 2^(e - 128) a group: half of what the format's e says, for tables of doubled values
  two_level,  // float16 a span, times an int8 a group
  nv,         // float32 a span, times an e4m3 a group
};
enum class Offsets : uint8_t {
  constant,   // `zero`, or by MatrixCode::zeros a byte a group
  minimum,    // float16 a group
  two_level,  // float16 a span, times an int8 a group
};

// Its functions are inlined even where files are compiled for other instruction sets than the linker's copy would be.
struct Code {
  const char* name;
  int bits;  // of a weight in a tile: 4; 6, a tile of 4 and one of 2; 8; 16; 32
  Levels levels;
  Scales scales = Scales::none;
  Offsets offsets = Offsets::constant;
  int zero = 0;
  const int8_t* table = nullptr;  // of 16, less its `zero` already
  bool zeros = false;             // there may be zeros a group

  [[gnu::always_inline]] constexpr bool grouped() const { return levels != Levels::floats; }
  // Sums over its weights are sums of integers.
  [[gnu::always_inline]] constexpr bool integer() const { return levels == Levels::integer || levels == Levels::table; }
  [[gnu::always_inline]] constexpr bool minimums() const { return offsets != Offsets::constant; }
  [[gnu::always_inline]] constexpr int tile_bytes() const { return kTileN * kTileK * bits / 8; }
  // Stored input features that share what two-level codes have of both kinds, and that a GPU's warp takes at once: of 6
  // bits as few as leave room for the chunks of two thread blocks an SM.
  [[gnu::always_inline]] constexpr int span() const { return bits == 6 ? 64 : 128; }
  // Before the tiles of each span, and of each group.
  [[gnu::always_inline]] constexpr int span_bytes() const {
    const int scale = scales == Scales::two_level ? 2 : scales == Scales::nv ? 4 : 0;
    return kTileN * (scale + (offsets == Offsets::two_level ? 2 : 0));
  }
  [[gnu::always_inline]] constexpr int scale_bytes() const {  // of an output feature of a group
    return scales == Scales::none ? 0 : scales == Scales::half ? 2 : scales == Scales::f32 ? 4 : 1;
  }
  [[gnu::always_inline]] constexpr int header_bytes(bool with_zeros) const {
    const int offset = offsets == Offsets::minimum ? 2 : offsets == Offsets::two_level || with_zeros ? 1 : 0;
    return kTileN * (scale_bytes() + offset);
  }
};

// The values that a nibble of IQ4_NL and IQ4_XS stands for, and twice those of E2M1 (MXFP4, NVFP4).
inline constexpr int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
inline constexpr int8_t kE2m1Doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

inline constexpr Code kCodes[kWeightTypes] = {
    {.name = "q4", .bits = 4, .levels = Levels::integer, .scales = Scales::half, .zero = 8, .zeros = true},
    {.name = "f16", .bits = 16, .levels = Levels::floats},
    {.name = "bf16", .bits = 16, .levels = Levels::floats},
    {.name = "f32", .bits = 32, .levels = Levels::floats},
    {.name = "q8", .bits = 8, .levels = Levels::integer, .scales = Scales::half, .zero = 128, .zeros = true},
    {.name = "q4_1", .bits = 4, .levels = Levels::integer, .scales = Scales::half, .offsets = Offsets::minimum},
    {.name = "q5_0", .bits = 6, .levels = Levels::integer, .scales = Scales::half, .zero = 16},
    {.name = "q5_1", .bits = 6, .levels = Levels::integer, .scales = Scales::half, .offsets = Offsets::minimum},
    {.name = "q2_k", .bits = 4, .levels = Levels::integer, .scales = Scales::two_level, .offsets = Offsets::two_level},
    {.name = "q3_k", .bits = 4, .levels = Levels::integer, .scales = Scales::two_level, .zero = 4},
    {.name = "q4_k", .bits = 4, .levels = Levels::integer, .scales = Scales::two_level, .offsets = Offsets::two_level},
    {.name = "q5_k", .bits = 6, .levels = Levels::integer, .scales = Scales::two_level, .offsets = Offsets::two_level},
    {.name = "q6_k", .bits = 6, .levels = Levels::integer, .scales = Scales::two_level, .zero = 32},
    {.name = "iq4_nl", .bits = 4, .levels = Levels::table, .scales = Scales::half, .table = kIq4Values},
    {.name = "iq4_xs", .bits = 4, .levels = Levels::table, .scales = Scales::two_level, .table = kIq4Values},
    {.name = "mxfp4", .bits = 4, .levels = Levels::table, .scales = Scales::e8m0, .table = kE2m1Doubled},
    {.name = "nvfp4", .bits = 4, .levels = Levels::table, .scales = Scales::nv, .table = kE2m1Doubled},
    {.name = "fp8", .bits = 8, .levels = Levels::e4m3, .scales = Scales::f32},
};
constexpr const Code& code_of(WeightType type) {
  return kCodes[static_cast<int>(type)];
}
inline const char* name_of(WeightType type) {
  return code_of(type).name;
}

// What tables' entries are written with, so that they are not negative.
inline constexpr int kTableZero = 127;

// Groups that kernels are made for, in stored input features: the least and the largest (q4: any number of tiles).
struct GroupSizes {
  int least, most;
};
constexpr GroupSizes groups_of(WeightType type) {
  switch (type) {
    case WeightType::q8:
      return {32, 64};
    case WeightType::fp8:
      return {64, 64};
    case WeightType::q2_k:
    case WeightType::q3_k:
    case WeightType::q6_k:
    case WeightType::nvfp4:
      return {16, 16};
    default:
      return {32, 32};
  }
}

}  // namespace millrace
