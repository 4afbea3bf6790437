#pragma once
// Where one matrix lies in its slab: what kernels and their plans need of slab_layout.h, which draws it, without what
// the standard library needs for the rest. A compiler of kernels reads this once for each kind of GPU.
#include <cstddef>
#include <cstdint>

#include "model/code.h"

namespace millrace {

inline constexpr size_t kQ4TileBytes = kTileN * kTileK / 2;
inline constexpr int32_t kPadding = -1;

enum class ScaleType : uint8_t { f16, bf16 };

size_t element_bytes(WeightType type);  // of a float type; a grouped one throws

// How one matrix's weights are encoded.
struct MatrixCode {
  WeightType type = WeightType::f16;
  ScaleType scale = ScaleType::f16;  // of Scales::half
  bool zeros = false;                // an integer zero per group and output feature; otherwise the code's own
  bool permuted = false;             // stored input features are gathered through a permutation
  int group = 0;                     // of a grouped code: stored input features that share a scale, a multiple of 16

  const Code& traits() const { return code_of(type); }
};

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
  bool grouped() const { return code.traits().grouped(); }
  int groups() const { return grouped() ? (k_stored + code.group - 1) / code.group : 0; }
  int spans() const { return span_bytes() == 0 ? 0 : (k_stored + span() - 1) / span(); }
  int span() const { return code.traits().span(); }
  size_t tile_bytes() const { return static_cast<size_t>(code.traits().tile_bytes()); }
  size_t span_bytes() const { return static_cast<size_t>(code.traits().span_bytes()); }
  size_t group_header_bytes() const { return static_cast<size_t>(code.traits().header_bytes(code.zeros)); }
  // Bytes of a group block: all but the last group of a row block are full.
  size_t group_bytes() const { return group_header_bytes() + static_cast<size_t>(code.group / kTileK) * tile_bytes(); }
  size_t row_block_bytes() const;
  // Byte offsets within a matrix: of what a span has, of a group's scales, of a tile.
  size_t span_offset(int row_block, int span) const;
  size_t group_offset(int row_block, int group) const;
  size_t tile_offset(int row_block, int slice) const;
};

// Index of (g, h, j) order for output feature n of a row block (0..63); scales, zeros and kernels' sums use it.
constexpr int tile_index(int n) {
  return (n % 8) * 8 + ((n / 8) % 2) * 4 + n / 16;
}
constexpr int tile_feature(int index) {
  return 16 * (index % 4) + 8 * ((index / 4) % 2) + index / 8;
}

}  // namespace millrace
