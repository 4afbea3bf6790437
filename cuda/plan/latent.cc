#include "cuda/plan/latent.h"

#include <algorithm>
#include <iterator>

namespace millrace::cuda {
namespace {

constexpr int kMostQueries = 32768;   // heads of all rows of a launch
constexpr int kMostPartBlocks = 512;  // thread blocks of a launch of rows in parts
constexpr int kBlocksOfSm = 8;        // that suffice, of queries and values
constexpr int kSwizzledColumns = 64;  // rows of weights in shared memory are whole multiples of it
constexpr int kMostGridRows = 65535;

int ceil_div(int a, int b) {
  return (a + b - 1) / b;
}

int padded(int columns) {
  return ceil_div(columns, kSwizzledColumns) * kSwizzledColumns;
}

// Tiles of rows, shared by as many thread blocks as fill the device.
int shares_of(const DeviceFacts& device, int blocks, int row_tiles) {
  return std::clamp(kBlocksOfSm * device.sms / std::max(blocks, 1), 1, std::max(row_tiles, 1));
}

int parts_of(int max_context) {
  return std::min(ceil_div(max_context, kLatentPartPositions), kLatentParts);
}

// A row's bits follow from the keys that a tile has: with little shared memory another number of them.
int tile_of(const DeviceFacts& device, const LatentShape& shape) {
  for (int i = 0; i < static_cast<int>(std::size(kLatentTiles)); i++) {
    const LatentTile& tile = kLatentTiles[i];
    if (shape.heads <= 16 && tile.tiles > 1) continue;
    if (tile.dynamic_bytes() + tile.static_bytes() <= device.block_bytes) return i;
  }
  return -1;
}

}  // namespace

std::optional<LaunchShape> plan_latent_queries(const DeviceFacts& device, const LatentShape& shape,
                                               const MatrixLayout& matrix, int rows) {
  LaunchShape launch;
  launch.threads = kLatentThreads;
  launch.grid[0] = shape.heads * (ceil_div(matrix.k_stored, kLatentColumns) + 1);
  launch.grid[1] = shares_of(device, launch.grid[0], ceil_div(rows, kLatentQueryRows));
  const int features = ceil_div(shape.nope, 32) * 32;
  launch.dynamic_bytes = (features * kLatentColumns + kLatentQueryRows * padded(shape.nope)) * 2;
  if (!shape.valid() || launch.dynamic_bytes > device.block_bytes) return std::nullopt;
  return launch;
}

std::optional<LaunchShape> plan_latent_values(const DeviceFacts& device, const LatentShape& shape,
                                              const MatrixLayout& matrix, int rows) {
  LaunchShape launch;
  launch.threads = kLatentThreads;
  launch.grid[0] = shape.heads * ceil_div(shape.value_dim, kLatentFeatures);
  launch.grid[1] = shares_of(device, launch.grid[0], ceil_div(rows, kLatentValueRows));
  launch.dynamic_bytes = (kLatentFeatures + kLatentValueRows) * padded(matrix.k_stored) * 2;
  launch.static_bytes = kLatentFeatures * kLatentValueRows * 4;  // sums of the other half of the latent
  if (!shape.valid() || launch.dynamic_bytes + launch.static_bytes > device.block_bytes) return std::nullopt;
  return launch;
}

std::optional<LatentPlan> plan_latent(const DeviceFacts& device, const LatentShape& shape, int rows, int max_context,
                                      bool decode) {
  LatentPlan plan;
  plan.tile = tile_of(device, shape);
  if (!shape.valid() || plan.tile < 0) return std::nullopt;
  const LatentTile& tile = kLatentTiles[plan.tile];
  plan.head_tiles = ceil_div(shape.heads, tile.heads());
  plan.parts = decode ? parts_of(max_context) : 1;
  plan.launch.grid[0] = plan.parts;
  plan.launch.grid[1] = plan.head_tiles;
  plan.launch.grid[2] = rows;
  plan.launch.threads = 32 * kLatentWarps;
  plan.launch.dynamic_bytes = tile.dynamic_bytes();
  plan.launch.static_bytes = tile.static_bytes();
  return plan;
}

int latent_rows(const LatentShape& shape, int max_context, bool decode) {
  const int most = std::min(kMostGridRows, std::max(1, kMostQueries / shape.heads));
  if (!decode || parts_of(max_context) == 1) return most;
  return std::min(most, std::max(1, kMostPartBlocks / (parts_of(max_context) * ceil_div(shape.heads, 32))));
}

size_t latent_query_bytes(const LatentShape& shape, int rows) {
  const int most = std::min(rows, latent_rows(shape, 1, false));
  return static_cast<size_t>(most) * shape.heads * shape.key_dim() * 2;
}

size_t latent_partial_bytes(const LatentShape& shape, int rows, int max_context) {
  size_t bytes = 0;
  // Shorter contexts have fewer parts of more rows.
  for (int context = kLatentPartPositions; context < 2 * max_context; context *= 2) {
    const int longest = std::min(context, max_context), parts = parts_of(longest);
    if (parts == 1) continue;
    const int most = std::min(rows, latent_rows(shape, longest, true));
    bytes = std::max(bytes, static_cast<size_t>(most) * shape.heads * parts * (shape.rank + 2) * sizeof(float));
  }
  return bytes;
}

}  // namespace millrace::cuda
