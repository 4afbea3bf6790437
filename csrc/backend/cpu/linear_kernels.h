#pragma once
// What the instruction sets implement for linear.cc. Files compiled with extra instruction-set flags include this and
// intrinsics only: an inline function of a shared header, compiled there, could be the copy that the linker keeps for
// every machine.
#include <cstddef>
#include <cstdint>

// Unrolls the loop that follows; its count is a constant of at most n.
#if defined(__clang__)
#define MILLRACE_UNROLL(n) _Pragma("unroll")
#else
#define MILLRACE_UNROLL_TEXT(text) _Pragma(#text)
#define MILLRACE_UNROLL(n) MILLRACE_UNROLL_TEXT(GCC unroll n)
#endif

namespace millrace {

struct Code;

inline constexpr int kLinearRows = 48;       // rows of x that a kernel call serves at most, of any instruction set
inline constexpr int kLinearDenseRows = 8;   // the same of a float kernel
inline constexpr int kLinearMaxBlock = 128;  // stored input features that share an activation scale, at most

// One row block (64 output features) of a q4 matrix times `rows` rows of x. A group is cut into blocks of
// `block_tiles` tiles (the last one of a short last group may be shorter); block b of the matrix has, for each row,
// int16 activations, a scale and the sum of the int16. With `sum` the exact int32 sum over the block of
// (weight - zero) * x, every instruction set adds  float(sum) * (weight_scale * x_scale)  to the row's float32
// result, each operation rounded by itself (never fused), in ascending order of blocks.
struct Q4RowBlock {
  const std::byte* weights = nullptr;  // the row block's first group block
  int slices = 0;                      // tiles of 16 stored input features
  int group_tiles = 0;
  int block_tiles = 0;
  bool zeros = false;
  bool bf16_scales = false;
  int rows = 0;                   // 1..LinearKernels::q4_rows, or ..kLinearRows of q4_many
  const int16_t* x = nullptr;     // block by block: [rows, 16 * tiles of the block]
  const float* scales = nullptr;  // [blocks, rows]
  const int32_t* sums = nullptr;  // [blocks, rows]
  float* out = nullptr;           // [rows, 64] in the order of tile_index()
};

inline constexpr int kLinearCodeTiles = 4;  // tiles of a group of theirs, at most

// The same of any other integer code (model/code.h); the blocks that activation scales belong to are its groups. To a
// row's result each group adds the term above and then, of codes with minimums,  minimum * (float(sum of x) * x_scale).
struct CodeRowBlock {
  const Code* code = nullptr;
  const std::byte* weights = nullptr;  // the row block's first span or group block
  int slices = 0;
  int group_tiles = 0;
  bool zeros = false;
  bool bf16_scales = false;
  int rows = 0;                   // 1..LinearKernels::code_rows
  const int16_t* x = nullptr;     // group by group: [rows, 16 * tiles of the group]
  const float* scales = nullptr;  // [groups, rows]
  const int32_t* sums = nullptr;  // [groups, rows]
  float* out = nullptr;           // [rows, 64] in the order of tile_index()
};

// One row block of a float matrix. x is spread to the order of a tile's elements: for each tile, for t = 0..3:
// x[2t] x[2t+1] x[2t] x[2t+1] x[2t+8] x[2t+9] x[2t+8] x[2t+9].
struct DenseRowBlock {
  const std::byte* weights = nullptr;
  int slices = 0;
  int rows = 0;              // 1..kLinearDenseRows
  const float* x = nullptr;  // [rows, x_stride]
  int64_t x_stride = 0;
  float* out = nullptr;  // [rows, 64] in the order of tile_index()
};

inline constexpr int kLinearE4m3Rows = 2;  // that a kernel call of e4m3 takes at most

// Some whole groups of a row block of e4m3: each float32 scales [64], then its tiles. Otherwise as above.
struct E4m3RowBlock : DenseRowBlock {
  int group_tiles = 0;
};

struct LinearKernels {
  const char* name;
  int q4_rows;    // rows of x that one call of q4 takes at most
  int code_rows;  // and of code
  // Quantises count (a multiple of 16, at most kLinearMaxBlock) activations: scale = max|x| / 32767, q = x * (32767 /
  // max|x|) rounded to nearest even, sum = the sum of q. Below 1e-30 all are zero; if any x is infinite or NaN, q is
  // zero and scale NaN, so that every result that depends on it is NaN.
  void (*quantize)(const float* x, int count, int16_t* q, float* scale, int32_t* sum);
  void (*q4)(const Q4RowBlock&);
  void (*q4_many)(const Q4RowBlock&);  // the same results for 1..kLinearRows rows, faster beyond q4_rows; or null
  void (*code)(const CodeRowBlock&);
  // Tiles of e4m3 numbers (after a group's header of float32 scales) as float32 tiles, each number times its scale.
  void (*widen)(const std::byte* header, const std::byte* tiles, int count, float* out);
  void (*e4m3)(const E4m3RowBlock&);  // the same results as f32 of widened tiles, faster for few rows; or null
  void (*f16)(const DenseRowBlock&);
  void (*bf16)(const DenseRowBlock&);
  void (*f32)(const DenseRowBlock&);
};

extern const LinearKernels kLinearPlain;
#if defined(__x86_64__)
extern const LinearKernels kLinearAvx2;
extern const LinearKernels kLinearAvx512;
extern const LinearKernels kLinearAvx512Vnni;
#endif

inline constexpr float kLinearTinyBlock = 1e-30f;

}  // namespace millrace
