#include "cuda/plan/experts.h"

#include <algorithm>
#include <utility>

#include "backend/expert_arithmetic.h"
#include "core/memory.h"
#include "cuda/plan/chunks.h"

namespace millrace::cuda {
namespace {

constexpr int kMostStages = 4;

static_assert(kExpertParts == kExpertRuns);
// Of a run: as expert_order() has it, where there is one; whole groups then.
int run_chunks(const MatrixLayout& m, int chunks) {
  if (m.code.traits().integer()) {
    const ExpertOrder order = expert_order(m);
    return order.in_groups ? order.run / order.group * chunks_of_group(order.group) : order.run / order.chunk;
  }
  return (chunks + kExpertParts - 1) / kExpertParts;
}

// Shared memory of a tile: each warp's ring of weights and x, over which the warps' sums are laid at the end.
int tile_bytes(const MatrixLayout& m, int tile_rows, int x_rows, int stages) {
  const int weights = static_cast<int>(round_up(static_cast<size_t>(decode_chunk_bytes(m.code)), 128));
  const int x = x_rows * PortableShape::x_pitch(chunk_slices(m.code.type));
  const int rings = kDecodeWarps * stages * (weights + x + 16);
  return std::max(rings, kDecodeWarps * tile_rows / 8 * 2048) + tile_rows * 4;
}

}  // namespace

bool fused_expert_glu(const LinearLayout& gate_up) {
  return gate_up.interleaved;
}

int expert_rows(int rows, int top_k, int hidden) {
  const int64_t row = int64_t{top_k} * hidden * static_cast<int64_t>(sizeof(float));
  return static_cast<int>(std::clamp<int64_t>(kMostExpertBytes / row, 1, rows));
}

int few_tiles(int places, int experts) {
  return std::min(places, experts);
}
int many_tiles(int places, int experts, int many_rows) {
  // Of an expert with more rows than kFewRows: of nine, two tiles of eight.
  const int each = many_rows > kFewRows ? 1 : 2;
  return std::min(each * places / (kFewRows + 1), experts + places / many_rows);
}

std::optional<ExpertsPlan> plan_experts(const DeviceFacts& device, const MatrixLayout& m, int tile_rows, int rows,
                                        int tiles, bool meet) {
  ExpertsPlan plan;
  plan.chunks = decode_chunks(m);
  plan.each = run_chunks(m, plan.chunks);
  plan.x_rows = std::min(rows, tile_rows);
  if (tile_bytes(m, tile_rows, plan.x_rows, 1) > device.block_bytes) return std::nullopt;
  // Two thread blocks an SM, so that one's first weights come beside another's last.
  const int residents = PortableShape::residents_of(tile_rows);
  const int meeting = meet ? tiles * kTileN * 4 + 32 : 0;  // 64 features of each tile, and a barrier
  const int limit = std::min(device.block_bytes, device.sm_bytes / residents - kReservedBytes) - meeting;
  plan.stages = 1;
  while (plan.stages < std::min(plan.each, kMostStages) &&
         tile_bytes(m, tile_rows, plan.x_rows, plan.stages + 1) <= limit) {
    plan.stages++;
  }
  plan.launch.grid[0] = m.n_blocks();
  plan.launch.grid[1] = tiles;
  plan.launch.threads = kDecodeThreads;
  plan.launch.dynamic_bytes = tile_bytes(m, tile_rows, plan.x_rows, plan.stages);
  if (meet) {
    plan.sums_at = static_cast<int>(round_up(static_cast<size_t>(plan.launch.dynamic_bytes), 16));
    plan.launch.dynamic_bytes += meeting;
    if (plan.launch.dynamic_bytes > device.block_bytes) return std::nullopt;
    std::swap(plan.launch.grid[0], plan.launch.grid[1]);
    plan.launch.cluster = tiles;
  }
  return plan;
}

bool combines_itself(const DeviceFacts& device, int rows, int top_k) {
  return device.clusters() && rows == 1 && (top_k == 2 || top_k == 4 || top_k == 8);
}

int prompt_tile_rows(int places, int experts) {
  // An expert's last tile is half empty in the mean; a tile of 64 rows takes two thirds of one of 128.
  return places > 64 * experts ? 128 : 64;
}
int prompt_tiles(int places, int experts, int tile_rows) {
  return std::min(places, experts + places / tile_rows);
}

std::optional<PrefillPlan> plan_prompt(const DeviceFacts& device, const MatrixLayout& m, int places, int experts) {
  const int group = m.code.group / kTileK;
  WgmmaShape shape{prompt_tile_rows(places, experts)};
  if (m.code.type != WeightType::q4) {
    shape.block_bytes = wgmma_block_bytes(m.code.type, group, m.code.zeros);
    shape.stages = wgmma_stages(m.code.type, group, m.code.zeros);
  }
  if (shape.bytes() > device.block_bytes) return std::nullopt;
  PrefillPlan plan;
  plan.wgmma = true;
  plan.rows = shape.rows;
  plan.fine = m.code.type == WeightType::q4 && group % kWgmmaSlices != 0 && group < m.slices();
  const int columns = (m.n_blocks() + kWgmmaBlocks - 1) / kWgmmaBlocks;
  plan.launch.grid[0] = std::min(columns * prompt_tiles(places, experts, plan.rows), device.sms);
  plan.launch.threads = kWgmmaThreads;
  plan.launch.dynamic_bytes = shape.bytes();
  return plan;
}

bool computes_prompts(const DeviceFacts& device, const ExpertsLayout& experts) {
  if (!device.sm90 || !fused_expert_glu(experts.gate_up)) return false;
  for (const LinearLayout* linear : {&experts.gate_up, &experts.down}) {
    for (const LinearLayout::Segment& segment : linear->segments) {
      const MatrixLayout& m = segment.matrix;
      // (Act-order permutes each expert's x in its own way.)
      if (!wgmma_takes(m.code.type) || m.code.permuted) return false;
      for (const int places : {1, 65}) {  // among one: both sizes of tiles
        if (!plan_prompt(device, m, places, 1)) return false;
      }
    }
  }
  return true;
}

std::optional<RouterPlan> plan_router(const DeviceFacts& device, const MatrixLayout& m, int rows, int room_bytes) {
  const bool plain = m.code.type == WeightType::f16 || m.code.type == WeightType::bf16;
  const int blocks = 4 * m.n_blocks();
  if (!device.clusters() || rows > kRouterRows || !plain || m.code.permuted || m.k % kTileK != 0 || !norm_takes(m.k) ||
      blocks > kRouterBlocks) {
    return std::nullopt;
  }
  const auto decode = plan_decode(device, m, rows, false);
  if (!decode || decode->splits > 2) return std::nullopt;
  RouterPlan plan;
  plan.splits = decode->splits;
  plan.step = decode->step;
  plan.rounds = decode->rounds;
  plan.sum_warps = decode->sum_warps;
  plan.squares_at = rows * norm_pitch(m.slices());
  plan.barrier_at = plan.squares_at + kNormSumBytes;
  plan.sums_at = plan.barrier_at + 16;
  plan.logits_at = plan.sums_at + kDecodeWarps * plan.splits * 16 * kRouterRows * 4;
  plan.launch.grid[0] = blocks;
  plan.launch.cluster = blocks;
  plan.launch.threads = kDecodeThreads;
  plan.launch.dynamic_bytes = plan.logits_at + kRouterBlocks * 16 * kRouterRows * 4 + rows * room_bytes;
  if (plan.launch.dynamic_bytes > device.block_bytes) return std::nullopt;
  return plan;
}

int many_rows(const DeviceFacts& device, const ExpertsLayout& experts) {
  for (const int rows : {kManyRows, kFewRows}) {
    bool fits = true;
    for (const LinearLayout* linear : {&experts.gate_up, &experts.down}) {
      for (const LinearLayout::Segment& segment : linear->segments) {
        fits = fits && plan_experts(device, segment.matrix, rows, rows, 1);
      }
    }
    if (fits) return rows;
  }
  return 0;
}

}  // namespace millrace::cuda
