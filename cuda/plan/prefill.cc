#include "cuda/plan/prefill.h"

#include <algorithm>

namespace millrace::cuda {
namespace {

int ceil_div(int a, int b) {
  return (a + b - 1) / b;
}

std::optional<PrefillPlan> plan_wgmma(const DeviceFacts& device, const MatrixLayout& m, int rows) {
  const bool q4 = m.code.type == WeightType::q4;
  const int group = m.code.group / kTileK;
  WgmmaShape shape{0};
  if (!q4) {
    shape.block_bytes = wgmma_block_bytes(m.code.type, group, m.code.zeros);
    shape.stages = wgmma_stages(m.code.type, group, m.code.zeros);
  }
  PrefillPlan plan;
  plan.wgmma = true;
  // Rounds of tiles times the time of one, which for 64 rows is about two thirds of that for 128.
  int best = 0;
  for (const int tile_rows : {128, 120, 64}) {
    if (!q4 && tile_rows == 120) continue;  // a kernel less a code
    shape.rows = tile_rows;
    if (shape.bytes() > device.block_bytes) continue;
    const int tiles = ceil_div(rows, tile_rows) * ceil_div(m.n_blocks(), kWgmmaBlocks);
    const int cost = ceil_div(tiles, device.sms) * (tile_rows + 64);
    if (plan.rows != 0 && cost >= best) continue;
    best = cost;
    plan.rows = tile_rows;
    plan.launch.grid[0] = std::min(tiles, device.sms);
    plan.launch.dynamic_bytes = shape.bytes();
  }
  if (plan.rows == 0) return std::nullopt;
  plan.fine = q4 && group % kWgmmaSlices != 0 && group < m.slices();
  plan.launch.threads = kWgmmaThreads;
  return plan;
}

}  // namespace

std::optional<PrefillPlan> plan_prefill(const DeviceFacts& device, const MatrixLayout& m, int rows) {
  const WeightType type = m.code.type;
  if (device.sm90 && wgmma_takes(type)) {
    if (const auto found = plan_wgmma(device, m, rows)) return found;
  }
  if (prefill_by_decode(type)) return std::nullopt;
  for (const int tile_rows : {128, 64}) {
    if (rows <= 64 && tile_rows > 64) continue;
    PrefillPlan plan;
    plan.rows = tile_rows;
    // Four stages where two thread blocks of the larger tiles then fit an SM.
    const bool deep = type == WeightType::q4 &&
                      device.sm_bytes >= 2 * (4 * mma_stage_bytes(type, 128) + kReservedBytes) &&
                      4 * mma_stage_bytes(type, 128) <= device.block_bytes;
    plan.stages = deep ? 4 : 2;
    plan.launch.dynamic_bytes = plan.stages * mma_stage_bytes(type, tile_rows);
    if (plan.launch.dynamic_bytes > device.block_bytes) continue;
    plan.launch.grid[0] = ceil_div(rows, tile_rows);
    plan.launch.grid[1] = ceil_div(m.n_blocks(), kMmaRowBlocks);
    plan.launch.threads = kMmaThreads;
    return plan;
  }
  return std::nullopt;
}

}  // namespace millrace::cuda
