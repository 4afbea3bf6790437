#include "cuda/plan/attention.h"

#include <algorithm>
#include <cstdint>
#include <iterator>

namespace millrace::cuda {
namespace {

constexpr int kManyBlocks = 128;  // thread blocks of a long row, for an H100: bits follow from it
constexpr int kAloneBytes =
    128 << 10;  // of shared memory: a thread block that has its SM for itself, but for small ones

int ceil_div(int a, int b) {
  return (a + b - 1) / b;
}

// log2 of the parts of a long row: 8 to 32, so many that they occupy an H100's SMs.
int most_parts_shift(const AttentionShape& shape) {
  int shift = 3;
  while (shift < 5 && (shape.kv_heads * attention_query_tiles(shape)) << shift < kManyBlocks) shift++;
  return shift;
}

constexpr int tile_index(const PrefillTile& tile) {
  for (int i = 0; i < static_cast<int>(std::size(kPrefillTiles)); i++) {
    if (kPrefillTiles[i] == tile) return i;
  }
  throw "there is no kernel of this tile";  // at compile time
}

}  // namespace

int attention_query_tiles(const AttentionShape& shape) {
  return ceil_div(shape.group(), kQueries);
}

int attention_parts(const AttentionShape& shape, int max_context) {
  const int blocks = ceil_div(max_context, kBlockPositions);
  return std::min(ceil_div(blocks, kLeastBlocks), 1 << most_parts_shift(shape));
}

std::optional<AttentionDecodePlan> plan_attention_decode(const DeviceFacts& device, const AttentionShape& shape,
                                                         int rows, int max_context) {
  if (!shape.valid()) return std::nullopt;
  AttentionDecodePlan plan;
  plan.dim = shape.head_dim <= 64 ? 64 : shape.head_dim <= 128 ? 128 : 256;
  plan.exact = shape.head_dim == 64 || shape.head_dim == 128;
  plan.group = shape.group();
  plan.query_tiles = attention_query_tiles(shape);
  plan.parts = attention_parts(shape, max_context);
  plan.most_parts_shift = most_parts_shift(shape);
  plan.cluster = device.clusters() && plan.parts > 1 && plan.parts <= kMostCluster;
  // As many stages as leave room for another thread block, or two; more than a warp has units are of no use.
  const int warps = attention_warps(plan.dim);
  const auto unit_bytes = static_cast<int>(kv_part_bytes(shape.kv_type, shape.head_dim));
  const int visible = ceil_div(max_context, kBlockPositions);
  const int units = part_blocks_of(visible, plan.most_parts_shift, warps) / warps * 2;
  plan.launch.static_bytes = attention_static_bytes(plan.dim);
  const int most_bytes = device.block_bytes - plan.launch.static_bytes;
  const int half_bytes = std::min(most_bytes, device.sm_bytes / 2 - kReservedBytes - plan.launch.static_bytes);
  plan.stages = 1;
  for (const int stages : {2, 3, 6, 12}) {
    if (stages == 12 && shape.kv_type != KvType::q8) break;
    const int bytes = warps * stages * unit_bytes;
    if (stages <= units && bytes <= (stages == 2 ? most_bytes : half_bytes)) plan.stages = stages;
  }
  const int sum_bytes = std::min(kQueries, plan.group) * plan.dim * static_cast<int>(sizeof(float));
  plan.warp_bytes = ceil_div(std::max(plan.stages * unit_bytes, sum_bytes), 128) * 128;
  plan.launch.dynamic_bytes = warps * plan.warp_bytes;
  if (plan.launch.dynamic_bytes > most_bytes) return std::nullopt;
  plan.launch.grid[0] = plan.parts;
  plan.launch.grid[1] = shape.kv_heads * plan.query_tiles;
  plan.launch.grid[2] = rows;
  plan.launch.threads = 32 * warps;
  plan.launch.cluster = plan.cluster ? plan.parts : 1;
  // A long row's thread blocks each read much: two of them on an SM while others have none would take twice the time.
  if (plan.parts > kMostCluster && int64_t{plan.parts} * plan.launch.grid[1] * plan.launch.grid[2] <= device.sms) {
    plan.launch.dynamic_bytes = std::max(plan.launch.dynamic_bytes, std::min(kAloneBytes, most_bytes));
  }
  return plan;
}

std::optional<AttentionPrefillPlan> plan_attention_prefill_tile(const DeviceFacts& device, const AttentionShape& shape,
                                                                int rows, int tile) {
  const PrefillTile& t = kPrefillTiles[tile];
  if (!shape.valid() || t.dynamic_bytes() + t.static_bytes() > device.block_bytes) return std::nullopt;
  AttentionPrefillPlan plan;
  plan.tile = tile;
  // Query heads share their group's keys; of a group that is larger than a tile, in equal shares.
  plan.heads = shape.group();
  while (plan.heads > t.rows() || shape.group() % plan.heads != 0) plan.heads--;
  plan.head_tiles = shape.group() / plan.heads;
  plan.tile_rows = std::min(t.rows() / plan.heads, kMaxTileRows);
  plan.launch.grid[0] = shape.kv_heads * plan.head_tiles;
  plan.launch.grid[1] = ceil_div(rows, plan.tile_rows);
  plan.launch.threads = t.threads();
  plan.launch.dynamic_bytes = t.dynamic_bytes();
  plan.launch.static_bytes = t.static_bytes();
  return plan;
}

std::optional<AttentionPrefillPlan> plan_attention_prefill(const DeviceFacts& device, const AttentionShape& shape,
                                                           int rows) {
  if (!shape.valid()) return std::nullopt;
  const auto planned = [&](const PrefillTile& tile) {
    return plan_attention_prefill_tile(device, shape, rows, tile_index(tile));
  };
  // The number of keys a tile, and with it a row's bits, is a matter of head_dim and of the kind of GPU: sm_75 has 64
  // KiB of shared memory, and smaller tiles. The number of rows is not, and follows what fills the device.
  const bool roomy = device.block_bytes >= 97 << 10;
  const int dim = shape.head_dim;
  if (dim > 128) return planned(roomy ? PrefillTile{256, 4, 1, 32, 1, false} : PrefillTile{256, 2, 1, 16, 1, false});
  const int64_t large_tiles = (int64_t{rows} * shape.group() + 127) / 128 * shape.kv_heads;
  const bool large = shape.group() > 64 || large_tiles > 2 * device.sms;
  if (dim == 64) return planned(large ? PrefillTile{64, 4, 2, 64, 2, true} : PrefillTile{64, 4, 1, 64, 3, true});
  if (dim < 64) return planned(PrefillTile{64, 4, 2, 64, 2, false});
  if (!roomy) return planned(PrefillTile{128, 4, 1, 32, 1, false});
  if (dim < 128) return planned(PrefillTile{128, 8, 1, 64, 1, false});
  return planned(large ? PrefillTile{128, 4, 2, 64, 1, true} : PrefillTile{128, 4, 1, 64, 2, true});
}

}  // namespace millrace::cuda
