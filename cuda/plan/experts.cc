#include "cuda/plan/experts.h"

#include <algorithm>

#include "core/memory.h"
#include "cuda/plan/chunks.h"

namespace millrace::cuda {
namespace {

constexpr int kMostStages = 4;

size_t begin_of(const LinearLayout& linear) {
  const MatrixLayout& m = linear.segments.front().matrix;
  return m.code.permuted ? std::min(m.offset, m.permutation_offset) : m.offset;
}

LinearLayout moved(LinearLayout linear, size_t base) {
  for (LinearLayout::Segment& segment : linear.segments) {
    segment.matrix.offset -= base;
    if (segment.matrix.code.permuted) segment.matrix.permutation_offset -= base;
  }
  if (linear.has_bias) linear.bias_offset -= base;
  return linear;
}

// Shared memory of a tile: each warp's ring of weights and x, over which the warps' sums are laid at the end.
int tile_bytes(const MatrixLayout& m, int tile_rows, int x_rows, int stages) {
  const int weights = static_cast<int>(round_up(static_cast<size_t>(decode_chunk_bytes(m.code)), 128));
  const int x = x_rows * PortableShape::x_pitch(chunk_slices(m.code.type));
  const int rings = kDecodeWarps * stages * (weights + x + 16);
  return std::max(rings, kDecodeWarps * tile_rows / 8 * 2048) + tile_rows * 4;
}

}  // namespace

std::optional<ExpertsLayout> experts_layout(const ExpertsOp& op, const UnitLayout& unit) {
  ExpertsLayout out;
  out.first = begin_of(unit.linears[op.gate_up(0)]);
  out.gate_up = moved(unit.linears[op.gate_up(0)], out.first);
  out.down = moved(unit.linears[op.down(0)], out.first);
  if (op.experts > 1) out.stride = begin_of(unit.linears[op.gate_up(1)]) - out.first;
  for (int e = 1; e < op.experts; e++) {
    const size_t base = out.first + static_cast<size_t>(e) * out.stride;
    if (begin_of(unit.linears[op.gate_up(e)]) != base) return std::nullopt;
    if (!(moved(unit.linears[op.gate_up(e)], base) == out.gate_up)) return std::nullopt;
    if (!(moved(unit.linears[op.down(e)], base) == out.down)) return std::nullopt;
  }
  return out;
}

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
int many_tiles(int places, int experts, int many_rows) {  // an expert with any has more than kFewRows
  return std::min(places / kFewRows, experts + places / many_rows);
}

std::optional<ExpertsPlan> plan_experts(const DeviceFacts& device, const MatrixLayout& m, int tile_rows, int rows,
                                        int tiles) {
  ExpertsPlan plan;
  plan.chunks = decode_chunks(m);
  plan.each = (plan.chunks + kExpertParts - 1) / kExpertParts;
  plan.x_rows = std::min(rows, tile_rows);
  if (tile_bytes(m, tile_rows, plan.x_rows, 1) > device.block_bytes) return std::nullopt;
  // Two thread blocks an SM, so that one's first weights come beside another's last.
  const int residents = PortableShape::residents_of(tile_rows);
  const int limit = std::min(device.block_bytes, device.sm_bytes / residents - kReservedBytes);
  plan.stages = 1;
  while (plan.stages < std::min(plan.each, kMostStages) &&
         tile_bytes(m, tile_rows, plan.x_rows, plan.stages + 1) <= limit) {
    plan.stages++;
  }
  plan.launch.grid[0] = m.n_blocks();
  plan.launch.grid[1] = tiles;
  plan.launch.threads = kDecodeThreads;
  plan.launch.dynamic_bytes = tile_bytes(m, tile_rows, plan.x_rows, plan.stages);
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
