#pragma once
// The one versioned description of how weights lie in memory. A slab is one unit's weights in one contiguous block;
// every matrix in it is cut into tiles of 64 output features (n) by 16 input features (k), ordered as tensor-core
// fragments, and the CPU reads the same bytes.
//
//   Matrix                 n_blocks() row blocks of 64 output features, one after the other
//   q4 row block           groups() group blocks, one after the other
//   q4 group block         64 scales, [64 integer zeros], then one 512-byte tile per 16 stored input features
//   float row block        one tile per 16 stored input features
//
// Inside a tile, mma.m16n8k16's A operand: lane = 4 * g + t (g = 0..7, t = 0..3), row block j = 0..3, half h = 0..1.
//   output feature of (g, h, j):  n = 16 * j + 8 * h + g
//   input features of t:          k = 2t, 2t+1 (pair 0) and 2t+8, 2t+9 (pair 1)
//
//   q4 tile, 512 bytes:   32 lanes x 4 words (j) x 8 nibbles. Nibble i of a word:
//       i = 0: (h 0, k 2t)    1: (h 1, k 2t)    2: (h 0, k 2t+8)    3: (h 1, k 2t+8)
//       i = 4: (h 0, k 2t+1)  5: (h 1, k 2t+1)  6: (h 0, k 2t+9)    7: (h 1, k 2t+9)
//     so that (word >> 4 i) & 0x000f000f is the pair (k, k+1) of A register i (a GPU's half2, a CPU's pair of int16).
//   float tile, 4 x 32 lanes x 8 elements: row block j outermost, then lane, then A registers 0..3 in the order
//     (h 0, pair 0) (h 1, pair 0) (h 0, pair 1) (h 1, pair 1), two elements each.
//   scales and zeros of a group block: index 8 * g + 4 * h + j, so that lane g's eight scales are 16 bytes.
//
// Stored input features are the checkpoint's own order, or, with a permutation (GPTQ act-order; groups whose size is
// no multiple of 16), sorted by group with each group padded to whole tiles. Padding has weight zero: q = zero point,
// float 0; its permutation entry is kPadding.
//
// Eight bits are two nibbles (`nibbles` = 2), each a stored input feature of its own, so that every kernel of 4 bits
// computes them: groups come in pairs over the same input features, first the high nibbles with 16 times the scale,
// then the low ones. Eight-bit code c stands for scale * (c - 136): 136 = 16 * 8 + 8 is the zero of both.
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace millrace {

inline constexpr int kSlabLayoutVersion = 1;
inline constexpr int kTileN = 64;
inline constexpr int kTileK = 16;
inline constexpr size_t kQ4TileBytes = kTileN * kTileK / 2;
inline constexpr size_t kSlabAlignment = 256;
inline constexpr int32_t kPadding = -1;

enum class WeightType : uint8_t { q4, f16, bf16, f32 };
enum class ScaleType : uint8_t { f16, bf16 };

size_t element_bytes(WeightType type);  // of a float type; q4 throws
const char* name_of(WeightType type);

// How one matrix's weights are encoded. Room for other bit widths, scale encodings and float minima.
struct MatrixCode {
  WeightType type = WeightType::f16;
  ScaleType scale = ScaleType::f16;  // q4
  bool zeros = false;                // q4: an integer zero (0..16) per group and output feature; otherwise 8
  bool permuted = false;             // stored input features are gathered through a permutation
  int group = 0;                     // q4: stored input features that share a scale, a multiple of 16
  int nibbles = 1;                   // q4: of a weight; two need `permuted`
};
const char* name_of(const MatrixCode& code);  // of its type, but "q8" for two nibbles

// Where one matrix lies in its slab. Offsets are bytes from the slab's start.
struct MatrixLayout {
  MatrixCode code;
  int n = 0;         // output features
  int k = 0;         // input features of the model
  int k_stored = 0;  // input features as stored: k padded to whole tiles, or the padded groups
  size_t offset = 0;
  size_t bytes = 0;
  size_t permutation_offset = 0;  // int32 [k_stored], entry = input feature or kPadding; 0 bytes unless permuted

  int n_blocks() const { return (n + kTileN - 1) / kTileN; }
  int slices() const { return k_stored / kTileK; }
  int groups() const { return code.type == WeightType::q4 ? (k_stored + code.group - 1) / code.group : 0; }
  size_t group_header_bytes() const { return kTileN * (code.zeros ? 3 : 2); }
  // Bytes of a group block of q4: all but the last group of a row block are full.
  size_t group_bytes() const { return group_header_bytes() + static_cast<size_t>(code.group / kTileK) * kQ4TileBytes; }
  size_t row_block_bytes() const;
};

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

// The permutation of a matrix of two nibbles: k_stored = 2 * (k padded to tiles), a multiple of 2 * group.
std::vector<int32_t> nibble_permutation(int k, int k_stored, int group);

// Fills in offset-free fields (k_stored padded to tiles when no permutation is used) and bytes.
MatrixLayout measure_matrix(MatrixCode code, int n, int k, int k_stored);

// ---- Encoding. `row_block` and all pointers address one matrix's bytes (slab + layout.offset).

// Index of (g, h, j) order for output feature n of a row block (0..63); scales, zeros and kernels' sums use it.
constexpr int tile_index(int n) {
  return (n % 8) * 8 + ((n / 8) % 2) * 4 + n / 16;
}
constexpr int tile_feature(int index) {
  return 16 * (index % 4) + 8 * ((index / 4) % 2) + index / 8;
}

// Packs one 64 x 16 tile from q[n * 16 + k], values 0..15.
void encode_q4_tile(const uint8_t* q, std::byte* tile);
void decode_q4_tile(const std::byte* tile, uint8_t* q);

// Packs one 64 x 16 tile of 2- or 4-byte elements from w[n * 16 + k].
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

// Byte offsets within a matrix.
size_t q4_group_offset(const MatrixLayout& m, int row_block, int group);  // scales; zeros at + 128 if present
size_t q4_tile_offset(const MatrixLayout& m, int row_block, int slice);
size_t float_tile_offset(const MatrixLayout& m, int row_block, int slice);

// Decodes a whole matrix to float32 [n, k] in the model's own input order: the reference that encoders and kernels
// are tested with. `slab` is the slab's start.
std::vector<float> decode_matrix(const MatrixLayout& m, const std::byte* slab);

}  // namespace millrace
