#pragma once
// Plans of attention_decode and attention_prefill: which kernel of a head's size, and how rows, query heads, positions
// and shared memory are cut.
#include <cstddef>
#include <optional>

#include "cuda/plan/device.h"
#include "model/kv_type.h"

namespace millrace::cuda {

inline constexpr int kBlockPositions = 16;  // of the cache: kKvBlockTokens of csrc/backend/backend.h
inline constexpr int kMostHeadDim = 256;

struct AttentionShape {
  int heads = 0, kv_heads = 0, head_dim = 0;
  KvType kv_type = KvType::f16;
  int group() const { return heads / kv_heads; }
  bool valid() const {
    return head_dim >= 2 && head_dim <= kMostHeadDim && head_dim % 2 == 0 && kv_heads >= 1 && heads % kv_heads == 0;
  }
};

// ---- Decode
inline constexpr int kQueries = 8;      // query heads of a thread block
inline constexpr int kMostCluster = 8;  // parts of a row that meet in a cluster
// Of a part that is not the row's last. (8: a pass of one row at 1,024 positions 0.5 % faster, attention of 64 rows 15
// % slower.)
inline constexpr int kLeastBlocks = 16;

constexpr int attention_warps(int dim) {
  return dim <= 128 ? 8 : 4;
}
// Blocks of a part of a row that sees `visible` of them: the warps' turns are whole.
constexpr int part_blocks_of(int visible, int most_shift, int warps) {
  const int turns = ((visible + warps - 1) / warps + (1 << most_shift) - 1) >> most_shift;
  return turns * warps > kLeastBlocks ? turns * warps : kLeastBlocks;
}
// The kernel's own shared memory: fragments of the queries, the warps' statistics, what the cluster's parts send with
// theirs, a barrier, a flag; the dynamic memory behind it begins at a multiple of 128.
constexpr int attention_static_bytes(int dim) {
  const int bytes = dim * 32 + attention_warps(dim) * kQueries * 8 + (kQueries * dim / 2 + kMostCluster) * 8 +
                    kMostCluster * kQueries * 8 + 8 + 1;
  return (bytes + 127) / 128 * 128;
}

struct AttentionDecodePlan {
  int dim = 0;          // the kernel's: head_dim, or what it is padded to
  bool exact = false;   // no padding
  int group = 0;        // query heads a key head
  int query_tiles = 0;  // thread blocks a key head
  // How rows are cut into parts, from the heads and a row's own position alone.
  int most_parts_shift = 0;
  int parts = 0;         // of the bucket's longest row
  int stages = 0;        // of a warp's ring, each the keys or the values of a block: 1, 2, 3, 6 or 12
  int warp_bytes = 0;    // of a warp's ring, or of its sums
  bool cluster = false;  // the parts of a row are one
  LaunchShape launch;
};

// max_context: of the launch's bucket, no position of it is greater or equal.
int attention_parts(const AttentionShape& shape, int max_context);
int attention_query_tiles(const AttentionShape& shape);
std::optional<AttentionDecodePlan> plan_attention_decode(const DeviceFacts& device, const AttentionShape& shape,
                                                         int rows, int max_context);

// ---- Prefill
inline constexpr int kMaxTileRows = 128;  // launch rows of a tile

// A tile has 16 * warp_tiles rows a warp, which are pairs of a launch row and a query head; keys come `keys` at a time,
// through two stages of shared memory.
struct PrefillTile {
  int dim, warps, warp_tiles, keys;
  int residents;  // thread blocks that an SM should hold
  bool exact;     // head_dim is dim

  constexpr int threads() const { return 32 * warps; }
  constexpr int rows() const { return 16 * warp_tiles * warps; }
  constexpr int dynamic_bytes() const { return (rows() + 4 * keys) * dim * 2; }
  constexpr int static_bytes() const { return 2 * kMaxTileRows * 4; }
  constexpr bool operator==(const PrefillTile&) const = default;
};
// Those that kernels are made for.
inline constexpr PrefillTile kPrefillTiles[] = {
    {256, 4, 1, 32, 1, false}, {256, 2, 1, 16, 1, false}, {64, 4, 2, 64, 2, true},
    {64, 4, 1, 64, 3, true},   {64, 4, 2, 64, 2, false},  {128, 4, 1, 32, 1, false},
    {128, 8, 1, 64, 1, false}, {128, 4, 2, 64, 1, true},  {128, 4, 1, 64, 2, true},
};

struct AttentionPrefillPlan {
  int tile = 0;        // of kPrefillTiles
  int heads = 0;       // query heads of a thread block: the group, or a divisor of it
  int head_tiles = 1;  // thread blocks a key head
  int tile_rows = 0;   // launch rows of a thread block
  LaunchShape launch;
};

std::optional<AttentionPrefillPlan> plan_attention_prefill(const DeviceFacts& device, const AttentionShape& shape,
                                                           int rows);
// Of a tile that somebody else has chosen.
std::optional<AttentionPrefillPlan> plan_attention_prefill_tile(const DeviceFacts& device, const AttentionShape& shape,
                                                                int rows, int tile);

}  // namespace millrace::cuda
