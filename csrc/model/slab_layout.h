#pragma once
// The one versioned description of how weights lie in memory. A slab is one unit's weights in one contiguous block;
// every matrix in it is cut into tiles of 64 output features (n) by 16 input features (k), ordered as tensor-core
// fragments, and the CPU reads the same bytes.
//
//   Matrix                 n_blocks() row blocks of 64 output features, one after the other
//   grouped row block      groups() group blocks, one after the other; before each span of 128 stored input features of
//                          a two-level code, what the span has: 64 scales, [64 minimums]
//   group block            64 scales, [64 zeros or minimums], then one tile per 16 stored input features
//   float row block        one tile per 16 stored input features
//
// Which of these a code has, and how wide: code.h.
//
// Inside a tile, mma.m16n8k16's A operand: lane = 4 * g + t (g = 0..7, t = 0..3), row block j = 0..3, half h = 0..1.
//   output feature of (g, h, j):  n = 16 * j + 8 * h + g
//   input features of t:          k = 2t, 2t+1 (pair 0) and 2t+8, 2t+9 (pair 1)
//
//   q4 tile, 512 bytes:   32 lanes x 4 words (j) x 8 nibbles. Nibble i of a word:
//       i = 0: (h 0, k 2t)    1: (h 1, k 2t)    2: (h 0, k 2t+8)    3: (h 1, k 2t+8)
//       i = 4: (h 0, k 2t+1)  5: (h 1, k 2t+1)  6: (h 0, k 2t+9)    7: (h 1, k 2t+9)
//     so that (word >> 4 i) & 0x000f000f is the pair (k, k+1) of A register i (a GPU's half2, a CPU's pair of int16).
//   8-bit tile of integers, 1024 bytes: pair 0, then pair 1, each 32 lanes x 4 words (j) x 4 bytes. Byte b of a word is
//     (h b % 2, k 2t + b / 2 + 8 * pair), so that (word >> 8 h) & 0x00ff00ff is the pair of A register 2 * pair + h.
//   6-bit tile, 768 bytes: a q4 tile of the low nibbles, then 32 lanes x 2 words of the high 2 bits. Word v has those
//   of
//     j = 2v and 2v + 1: of A register i the pair (word >> f) & 0x00030003, f = {0, 4, 2, 6}[i] + 8 * (j % 2).
//   float tile (e4m3 too), 4 x 32 lanes x 8 elements: row block j outermost, then lane, then A registers 0..3 in the
//   order
//     (h 0, pair 0) (h 1, pair 0) (h 0, pair 1) (h 1, pair 1), two elements each.
//   scales, zeros and minimums of a group block or span: index 8 * g + 4 * h + j, so that those of lane g are together.
//
// Stored input features are the checkpoint's own order, or, with a permutation (GPTQ act-order; groups whose size is
// no multiple of 16), sorted by group with each group padded to whole tiles. Padding has weight zero: q = zero point,
// float 0; its permutation entry is kPadding.
//
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "model/matrix_layout.h"

namespace millrace {

inline constexpr int kSlabLayoutVersion = 3;
inline constexpr size_t kSlabAlignment = 256;

// y = x W^T (+ bias), with the output features of one or several matrices side by side: matrices whose code and
// permutation agree are stored as one, others apart.
struct LinearLayout {
  struct Segment {
    MatrixLayout matrix;
    int out_begin = 0;  // first output feature of this matrix within the linear's output
  };
  int n = 0;
  int k = 0;
  std::vector<Segment> segments;
  bool has_bias = false;
  size_t bias_offset = 0;  // float32 [n]
  // Of gate and up, where one matrix holds both: feature 16 b + g is gate feature 8 b + g and feature 16 b + 8 + g is
  // up feature 8 b + g (g = 0..7), n = 2 * padded width. Otherwise gate features come first, then up features.
  bool interleaved = false;
};

// Where the weights of a unit of the program lie: float32 vectors first, then its linears, each before its bias.
struct UnitLayout {
  std::vector<size_t> vectors;  // their offsets
  std::vector<LinearLayout> linears;
  size_t bytes = 0;  // of the whole slab, a multiple of kSlabAlignment
};

// An embedding table in system RAM: rows as the checkpoint has them, packed types as float32.
struct TableLayout {
  WeightType type = WeightType::f16;
  int width = 0;
  size_t offset = 0;  // of all tables' bytes
  size_t bytes = 0;
};

// Field by field: layout_fields.h has them all.
bool operator==(const MatrixCode& a, const MatrixCode& b);
bool operator==(const MatrixLayout& a, const MatrixLayout& b);
bool operator==(const LinearLayout::Segment& a, const LinearLayout::Segment& b);
bool operator==(const LinearLayout& a, const LinearLayout& b);
bool operator==(const UnitLayout& a, const UnitLayout& b);

// Lays out matrices one after the other, aligned, and gives the slab's size.
class SlabBuilder {
 public:
  size_t floats(size_t count);
  MatrixLayout matrix(MatrixCode code, int n, int k, int k_stored);
  size_t bytes() const { return bytes_; }

 private:
  size_t reserve(size_t bytes);
  size_t bytes_ = 0;
};

// Fills in offset-free fields (k_stored padded to tiles when no permutation is used) and bytes.
MatrixLayout measure_matrix(MatrixCode code, int n, int k, int k_stored);

// ---- Encoding. `row_block` and all pointers address one matrix's bytes (slab + layout.offset).

// Packs one 64 x 16 tile of a grouped code from q[n * 16 + k], levels as they are written.
void encode_tile(WeightType type, const uint8_t* q, std::byte* tile);
void decode_tile(WeightType type, const std::byte* tile, uint8_t* q);

// Packs one 64 x 16 tile of elements of 1, 2 or 4 bytes from w[n * 16 + k].
template <typename T>
void encode_float_tile(const T* w, T* tile) {
  for (int j = 0; j < 4; j++) {
    for (int lane = 0; lane < 32; lane++) {
      const int g = lane / 4, t = lane % 4;
      for (int i = 0; i < 8; i++) {
        const int n = 16 * j + 8 * ((i / 2) % 2) + g;
        const int k = 2 * t + 8 * (i / 4) + i % 2;
        *tile++ = w[n * kTileK + k];
      }
    }
  }
}

// What a group of a row block has of one output feature, as bits of the code's kinds.
struct GroupField {
  uint32_t scale = 0;
  uint16_t offset = 0;  // zero or minimum
};
// The same of a span.
using SpanField = GroupField;
// Write the fields of output features 0..63.
void encode_group(const MatrixCode& code, const GroupField* fields, std::byte* header);
void encode_span(const MatrixCode& code, const SpanField* fields, std::byte* header);

// Of a weight: scale * level_of() + minimum.
struct GroupValues {
  float scale = 0.0f;
  float minimum = 0.0f;
  int zero = 0;
};
GroupValues values_of(const MatrixCode& code, const GroupField& field, const SpanField& span);
float level_of(const Code& code, uint8_t bits, int zero);
GroupValues decode_group(const MatrixLayout& m, const std::byte* matrix, int row_block, int group, int n);
float e4m3_to_float(uint8_t bits);  // NaN of 0x7f and 0xff

// Decodes a whole matrix to float32 [n, k] in the model's own input order: the reference that encoders and kernels
// are tested with. `slab` is the slab's start.
std::vector<float> decode_matrix(const MatrixLayout& m, const std::byte* slab);
// Of that the output features of one row block: [kTileN, k], of the last as many as there are.
void decode_row_block(const MatrixLayout& m, const std::byte* slab, int row_block, float* out);

}  // namespace millrace
