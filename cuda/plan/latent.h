#pragma once
// Plans of latent attention (cuda/latent.h): how heads, columns, rows, positions and shared memory are cut.
#include <cstddef>
#include <cstdint>
#include <optional>

#include "cuda/plan/device.h"
#include "model/matrix_layout.h"

namespace millrace::cuda {

inline constexpr int kMostLatentRank = 512;
inline constexpr int kMostLatentRotary = 64;
inline constexpr int kMostLatentNope = 256;
inline constexpr int kLatentKeyStride = kMostLatentRank + kMostLatentRotary;  // halves of a row in shared memory

struct LatentShape {
  int heads = 0, rank = 0, nope = 0, rotary = 0, value_dim = 0;
  constexpr int key_dim() const { return rank + rotary; }
  // Rows of the cache are read 16 bytes at a time.
  constexpr bool valid() const {
    return heads >= 1 && rank >= 8 && rank <= kMostLatentRank && rank % 8 == 0 && rotary >= 8 &&
           rotary <= kMostLatentRotary && rotary % 8 == 0 && nope >= 1 && nope <= kMostLatentNope && value_dim >= 1;
  }
};

// ---- Queries to the space of latents, and what they found to values: weights are widened to float16 once a thread
// block, which then takes tiles of rows.
inline constexpr int kLatentThreads = 256;
inline constexpr int kLatentColumns = 64;    // of the latent, a thread block of queries
inline constexpr int kLatentQueryRows = 32;  // of a tile
inline constexpr int kLatentFeatures = 32;   // of a head's value, a thread block of values
inline constexpr int kLatentValueRows = 16;

// grid: heads times tiles of columns (of queries one more, of the part that turns), shares of the rows.
std::optional<LaunchShape> plan_latent_queries(const DeviceFacts& device, const LatentShape& shape,
                                               const MatrixLayout& matrix, int rows);
std::optional<LaunchShape> plan_latent_values(const DeviceFacts& device, const LatentShape& shape,
                                              const MatrixLayout& matrix, int rows);

// ---- Attention: a thread block takes heads of one row, `tiles` times 16 of them, and a part of the positions that it
// sees, `keys` at a time through `stages` stages of shared memory.
struct LatentTile {
  int tiles, keys, stages;

  constexpr int heads() const { return 16 * tiles; }
  constexpr int query_bytes() const { return heads() * kLatentKeyStride * 2; }
  constexpr int stage_bytes() const { return keys * kLatentKeyStride * 2; }
  constexpr int dynamic_bytes() const { return query_bytes() + stages * stage_bytes() + heads() * keys * 2; }
  // Maxima and sums of each 16 keys, and factors; the dynamic memory behind them begins at a multiple of 128.
  constexpr int static_bytes() const { return (heads() * (2 * keys / 16 + 1) * 4 + 127) / 128 * 128; }
};
inline constexpr int kLatentWarps = 8;
// Those that kernels are made for: with much shared memory, then with little.
inline constexpr LatentTile kLatentTiles[] = {{2, 64, 2}, {1, 64, 2}, {2, 32, 1}, {1, 32, 1}};

inline constexpr int kLatentParts = 32;          // of a long row, at most
inline constexpr int kLatentPartPositions = 64;  // of a part, at least, and a multiple of it
// Positions of a part of a row that sees `visible` of them.
constexpr int latent_part_positions(int visible) {
  const int units = (visible + kLatentPartPositions - 1) / kLatentPartPositions;
  return (units + kLatentParts - 1) / kLatentParts * kLatentPartPositions;
}

struct LatentPlan {
  int tile = 0;        // of kLatentTiles
  int head_tiles = 0;  // thread blocks a row and part
  int parts = 1;       // of the bucket's longest row
  LaunchShape launch;  // parts, head tiles, rows
};

// max_context: of the launch's bucket; prompts' rows are not cut into parts.
std::optional<LatentPlan> plan_latent(const DeviceFacts& device, const LatentShape& shape, int rows, int max_context,
                                      bool decode);
// Rows of one launch: more have several, each with the same working memory. Bits don't depend on it.
int latent_rows(const LatentShape& shape, int max_context, bool decode);
// Of that memory: queries of latent_rows() rows, and what parts leave.
size_t latent_query_bytes(const LatentShape& shape, int rows);
size_t latent_partial_bytes(const LatentShape& shape, int rows, int max_context);

}  // namespace millrace::cuda
