#include "cuda/plan/decode.h"

#include <algorithm>

#include "cuda/plan/chunks.h"

namespace millrace::cuda {
namespace {

constexpr int kAloneRounds = 4;  // from which a thread block waits for an SM without another of its launch
// From where on the sm_90 kernels are the faster ones (linear_decode_bench): rows of a launch, size of the matrix.
constexpr int kSharedFrom = 9, kSharedTo = 32;
constexpr int kWideFrom = 33, kWideWholeFrom = 17, kWideLeastBlocks = 64, kWideLeastChunks = 32;
constexpr int kWideBlocks = 2;  // row blocks a thread block, by which its parts are chosen

int ceil_div(int a, int b) {
  return (a + b - 1) / b;
}

// With few row blocks a cluster of two thread blocks takes each, as long as each warp has two chunks, and only where
// they then fill the SMs evenly, once or twice. (96 row blocks in two: 60 SMs had two thread blocks and 72 one, and
// none was free for attention before they ended. Clusters of four: measured, and slower; the barrier of a cluster costs
// a microsecond.)
int splits_of(int n_blocks, int chunks) {
  const bool even = 2 * n_blocks <= kSumsFor || (10 * n_blocks >= 9 * kSumsFor && n_blocks <= kSumsFor);
  return even && chunks >= kDecodeWarps * 4 ? 2 : 1;
}

// Into how many parts, each a thread block of a cluster, the wide kernel cuts k: as many as fill an H100, two an SM.
int parts_of(int n_blocks, int splits) {
  const int groups = ceil_div(n_blocks, kWideBlocks);
  int parts = splits;
  while (parts < kWideParts && groups * parts * 2 <= 2 * kSumsFor) parts *= 2;
  return parts;
}

int stripes_of(int items, int at_once) {  // evenly, on at most so many
  return ceil_div(items, ceil_div(items, at_once));
}

// Stages of weights and of x that a tile of `tile_rows` rows has, if at least `least_x` of x fit.
std::optional<DecodePlan> plan_tile(const DeviceFacts& device, const MatrixLayout& m, int rows, bool norms,
                                    const DecodeTuning& tuning, DecodePlan plan, int tile_rows, int least_x) {
  const PortableShape shape{
      chunk_slices(m.code.type), decode_chunk_bytes(m.code), tile_rows, std::min(rows, tile_rows), plan.splits,
      norms ? m.slices() : 0};
  const int x_least = norms ? 0 : least_x;
  if (shape.bytes(1, x_least) > device.block_bytes) return std::nullopt;
  // As many thread blocks an SM as leave two stages, so that the next launch's first weights come beside this one's
  // last.
  int residents = tuning.residents > 0 ? tuning.residents : shape.residents();
  while (residents > 1 && shape.bytes(2, norms ? 0 : 2) > device.sm_bytes / residents - kReservedBytes) residents--;
  int limit = std::min(device.sm_bytes / residents - kReservedBytes, device.block_bytes);
  if (residents == 2) limit -= kAloneBytes;
  int stages = 1, x_stages = x_least;
  while (stages < (tuning.stages > 0 ? tuning.stages : 3) && shape.bytes(stages + 1, x_stages) <= limit) stages++;
  while (!norms && x_stages < std::max(plan.rounds, 4) && shape.bytes(stages, x_stages + 1) <= limit) x_stages++;
  if (x_stages < plan.rounds && x_stages > 4) x_stages = 4;

  plan.kernel = DecodeKernel::portable;
  plan.tile_rows = tile_rows;
  plan.tiles = ceil_div(rows, tile_rows);
  plan.x_rows = shape.x_rows;
  plan.stages = stages;
  plan.x_stages = x_stages;
  if (plan.splits > 1) {
    plan.stripes = m.n_blocks();
  } else if (tuning.stripes > 0) {
    plan.stripes = std::min(tuning.stripes, m.n_blocks());
  } else {  // evenly, on at most the thread blocks that run at once
    const int each = ceil_div(m.n_blocks() * plan.tiles, device.sms * shape.residents());
    plan.stripes = ceil_div(m.n_blocks(), each);
  }
  // Where each thread block could have an SM: launched one by one, as others end, they would share those that are free
  // first. So they ask for a little more than half of the memory, and all others for as little less. (Measured for few
  // rows. Thread blocks of little work had better share than wait for an SM that attention holds.)
  const int blocks = plan.stripes * plan.tiles * plan.splits;
  const bool alone = tile_rows == 8 && residents == 2 && blocks <= device.sms && plan.rounds >= kAloneRounds;
  plan.launch.grid[0] = blocks;
  plan.launch.threads = kDecodeThreads;
  plan.launch.cluster = plan.splits;
  plan.launch.dynamic_bytes = alone ? limit + 2 * kAloneBytes : shape.bytes(stages, x_stages);
  return plan;
}

// Tiles of rows as large as their number, with two stages of x or more; then of half of 32 rows. Where there is too
// little shared memory for either, x comes in one stage (a chunk's latency is then seen, but each weight is still made
// float16 once for all rows of the tile), and last in smaller tiles, side by side, whose weights come from the L2.
std::optional<DecodePlan> plan_portable(const DeviceFacts& device, const MatrixLayout& m, int rows, bool norms,
                                        const DecodeTuning& tuning, const DecodePlan& plan) {
  const int wanted = tuning.tile_rows > 0 ? tuning.tile_rows : rows;
  const bool of_16 = has_tiles_of_16(m.code.type);
  const int most = wanted <= 8 ? 8 : wanted <= 16 && of_16 ? 16 : 32;
  struct Try {
    int tile_rows, least_x;
  };
  for (const Try t : {Try{32, 2}, {16, 2}, {16, 1}, {8, 2}, {8, 1}}) {
    if (t.tile_rows > most || (t.tile_rows == 16 && !of_16)) continue;
    if (const auto found = plan_tile(device, m, rows, norms, tuning, plan, t.tile_rows, t.least_x)) return found;
  }
  return std::nullopt;
}

// The faster one, as measured (linear_decode_bench): of few rows only where four row blocks a thread block, which share
// x, keep nearly all SMs at work. (Gate and up of an 8B, 32 rows: 31.4 us in place of 35.6.)
bool takes_wide(const DeviceFacts& device, const MatrixLayout& m, int rows, const DecodePlan& plan) {
  if (m.n_blocks() < kWideLeastBlocks || plan.chunks < kWideLeastChunks) return false;
  if (rows >= kWideFrom) return true;
  const int items = ceil_div(m.n_blocks(), 4), rounds = ceil_div(items, device.sms);
  return rows >= kWideWholeFrom && plan.parts == 1 && items * 5 >= rounds * device.sms * 4;
}

WideShape wide_shape(const DeviceFacts& device, const MatrixLayout& m, int rows, const DecodePlan& plan) {
  const int chunk = decode_chunk_bytes(m.code);
  // Measured: tiles of 128 rows are the faster ones wherever they are full or nearly so.
  const int tile = rows <= 64 || (rows > 128 && rows <= 192) ? 64 : 128;
  if (plan.parts == 1) return rows <= 32 ? WideShape{chunk, 4, 1, 32} : WideShape{chunk, 256 / tile, 1, tile};
  // Two row blocks a thread block share x, unless with one each all thread blocks still run at once: two of an 8B's
  // down and output left half of the SMs without work (64 rows: 41.9 and 17.2 us; with one 21.5 and 10.4).
  const bool spread = m.n_blocks() * plan.parts / 2 <= device.sms;
  return {chunk, tile == 64 && !spread ? 2 : 1, 2, tile};
}

std::optional<DecodePlan> plan_wide(const DeviceFacts& device, const MatrixLayout& m, int rows, DecodePlan plan) {
  const WideShape shape = wide_shape(device, m, rows, plan);
  int stages = kWideStages;
  while (stages > 2 && shape.bytes(stages) > device.block_bytes) stages--;
  if (shape.bytes(stages) > device.block_bytes) return std::nullopt;
  plan.kernel = DecodeKernel::wide;
  plan.blocks = shape.blocks;
  plan.block_parts = shape.parts;
  plan.tile_rows = shape.rows;
  plan.tiles = ceil_div(rows, shape.rows);
  plan.stages = stages;
  const int items = ceil_div(m.n_blocks(), shape.blocks) * plan.tiles;
  plan.launch.threads = WideShape::threads_of(shape.groups());
  plan.launch.cluster = plan.parts / shape.parts;
  // Whole: evenly on the thread blocks that run at once.
  plan.launch.grid[0] = plan.parts > 1 ? items * plan.launch.cluster : stripes_of(items, device.sms);
  plan.launch.dynamic_bytes = shape.bytes(stages);
  return plan;
}

std::optional<DecodePlan> plan_shared(const DeviceFacts& device, const MatrixLayout& m, int rows,
                                      const DecodeTuning& tuning, DecodePlan plan) {
  // Two row blocks a thread block, unless with one each all of them still run at once: then all SMs have two, where of
  // half as many some SMs get two and others none, as the launch before leaves them. Teams must divide a run of turns.
  SharedShape shape{decode_chunk_bytes(m.code), rows <= 16 ? 16 : 32, 2, 2};
  if (plan.sum_warps % 4 == 0) {
    if (m.n_blocks() * plan.parts <= device.sms * kSharedResidents) {
      shape.blocks = 1;
    } else if (rows <= 16) {
      shape.halves = 1;
    }
  }
  // As the portable kernel divides an SM's memory.
  const int half = device.sm_bytes / kSharedResidents - kReservedBytes - kAloneBytes;
  const int residents = shape.bytes(2, plan.parts) <= half ? kSharedResidents : 1;
  const int limit = residents > 1 ? half : device.block_bytes;
  int stages = 1;
  const int most = tuning.stages > 0 ? tuning.stages : kSharedStages;
  while (stages < most && shape.bytes(stages + 1, plan.parts) <= limit) stages++;
  if (shape.bytes(stages, plan.parts) > device.block_bytes) return std::nullopt;
  plan.kernel = DecodeKernel::shared;
  plan.blocks = shape.blocks;
  plan.halves = shape.halves;
  plan.tile_rows = shape.rows;
  plan.tiles = 1;
  plan.stages = stages;
  const int groups = ceil_div(m.n_blocks(), shape.blocks);
  // Parts' sums have one place: a group of row blocks a cluster.
  plan.stripes = plan.parts > 1       ? groups
                 : tuning.stripes > 0 ? std::min(tuning.stripes, groups)
                                      : stripes_of(groups, device.sms * residents);
  plan.launch.grid[0] = plan.stripes * plan.parts;
  plan.launch.threads = kDecodeThreads;
  plan.launch.cluster = plan.parts;
  plan.launch.packed = plan.parts > 1 && plan.launch.grid[0] > device.sms * 7 / 4;
  plan.launch.dynamic_bytes = shape.bytes(stages, plan.parts);
  return plan;
}

}  // namespace

int decode_chunks(const MatrixLayout& m) {
  if (m.code.type == WeightType::q4) {
    const int group = m.code.group / kTileK;
    if (known_group(group) == 0) {
      return (m.groups() - 1) * chunks_of_group(group) + chunks_of_group(m.slices() - (m.groups() - 1) * group);
    }
  }
  return ceil_div(m.slices(), chunk_slices(m.code.type));
}

int decode_chunk_bytes(const MatrixCode& code) {
  const int group = code.group / kTileK;
  return chunk_bytes(code.type, code.type == WeightType::q4 ? known_group(group) : group, code.zeros);
}

bool decode_norms(const MatrixLayout& matrix, int rows) {
  // Two rows: thread blocks read the residual stream from the L2 at no cost that shows.
  return rows <= 2 && matrix.grouped() && !matrix.code.permuted && norm_takes(matrix.k) &&
         rows * norm_pitch(matrix.slices()) <= 20 << 10;
}

std::optional<DecodePlan> plan_decode(const DeviceFacts& device, const MatrixLayout& m, int rows, bool norms,
                                      const DecodeTuning& tuning) {
  DecodePlan plan;
  plan.chunks = decode_chunks(m);
  if (device.clusters()) plan.splits = tuning.splits > 0 ? tuning.splits : splits_of(m.n_blocks(), plan.chunks);
  plan.step = kDecodeWarps * plan.splits;
  plan.rounds = ceil_div(plan.chunks, plan.step);
  plan.parts = parts_of(m.n_blocks(), plan.splits);
  plan.sum_warps = plan.step / plan.parts;

  const bool hopper = device.sm90 && m.code.type == WeightType::q4 && !m.code.permuted && !norms &&
                      plan.parts <= kWideParts && tuning.tile_rows == 0;
  const bool wide = tuning.wide_from > 0 ? rows >= tuning.wide_from : takes_wide(device, m, rows, plan);
  if (hopper && wide) {
    if (const auto found = plan_wide(device, m, rows, plan)) return found;
  }
  const bool shared = rows >= (tuning.shared_from > 0 ? tuning.shared_from : kSharedFrom) && rows <= kSharedTo &&
                      plan.sum_warps % 2 == 0;
  if (hopper && shared) {
    if (const auto found = plan_shared(device, m, rows, tuning, plan)) return found;
  }
  return plan_portable(device, m, rows, norms, tuning, plan);
}

}  // namespace millrace::cuda
