// experts_linear: from arguments and their plan (plan/experts.h) to a task. The kernel is in experts.cuh.
#include "cuda/moe/answers.h"
#include "cuda/moe/experts.cuh"

namespace millrace::cuda {
namespace {

// whole: of one row all choices are in the list, in their order.
ExpertTask task_of(const ExpertArguments& a, bool whole) {
  const MatrixLayout& m = a.matrix;
  ExpertTask task{};
  DecodeTask& linear = task.linear;
  linear.units = a.weights.units;
  linear.unit = a.weights.unit;
  linear.early = a.weights.early;
  linear.permuted = m.code.permuted;
  linear.bfloat16_scales = m.code.scale == ScaleType::bf16;
  linear.matrix_offset = m.offset;
  linear.permutation_offset = m.permutation_offset;
  linear.row_block_bytes = m.row_block_bytes();
  linear.slices = m.slices();
  if (m.code.type == WeightType::q4) {
    linear.group_slices = m.code.group / kTileK;
    linear.group_bytes = static_cast<int>(m.group_bytes());
    linear.chunks_per_group = chunks_of_group(linear.group_slices);
  }
  linear.n = m.n;
  linear.n_blocks = m.n_blocks();
  linear.x = a.x;
  linear.x_stride = a.x_stride;
  linear.k = m.k;
  linear.y = a.y;
  linear.y_stride = a.y_stride;
  linear.act = a.act;
  linear.act_stride = a.act_stride;
  linear.intermediate = a.features;
  task.addresses = a.addresses;
  task.first = a.first;
  task.stride = a.stride;
  task.bias_offset = a.bias_offset;
  task.list = a.list;
  task.listed = a.listed;
  task.divisor = a.x_of_places ? 1 : a.top_k;
  task.epilogue = a.epilogue;
  task.alpha = a.alpha;
  task.limit = a.limit;
  task.one_row = a.rows == 1 && whole;
  task.top_k = a.top_k;
  if (a.combine != nullptr) task.combine = *a.combine;
  return task;
}

cudaError_t launch_tiles(const ExpertArguments& a, const ExpertTask& task, const DeviceFacts& device, bool many,
                         int tiles, cudaStream_t stream, bool programmatic) {
  const int tile_rows = many ? a.list.many_rows : kFewRows;
  const auto plan = plan_experts(device, a.matrix, tile_rows, a.rows, tiles, a.combine != nullptr);
  if (!plan) return cudaErrorInvalidConfiguration;
  ExpertLaunch l{task, *plan, tile_rows, stream, programmatic};
  l.task.linear.chunks = plan->chunks;
  l.task.linear.stages = plan->stages;
  l.task.linear.x_rows = plan->x_rows;
  l.task.each = plan->each;
  l.task.many = many;
  l.task.sums_at = plan->sums_at;
  const MatrixCode& code = a.matrix.code;
  const Code& traits = code.traits();
  if (code.type == WeightType::q4) return launch_experts_q4(l, code.zeros);
  if (!traits.grouped()) return launch_experts_float(l, code.type);
  if (traits.levels == Levels::table) return launch_experts_table(l, code);
  return traits.bits == 8 ? launch_experts_q8(l, code) : launch_experts_k(l, code);
}

cudaError_t launch_listed(const ExpertArguments& a, bool whole, cudaStream_t stream, bool programmatic) {
  const bool aligned = a.x_stride % 8 == 0 && reinterpret_cast<uintptr_t>(a.x) % 16 == 0;
  if (a.rows < 1 || !aligned) return cudaErrorInvalidValue;
  const DeviceFacts* device = nullptr;
  if (const cudaError_t status = device_facts(&device); status != cudaSuccess) return status;
  ExpertTask task = task_of(a, whole);
  const int places = a.rows * a.top_k;
  const cudaError_t status = launch_tiles(a, task, *device, false, few_tiles(places, a.experts), stream, programmatic);
  // An expert is chosen once by a row, if at all.
  if (status != cudaSuccess || a.rows <= kFewRows) return status;
  task.listed = true;  // the launch before has waited for the list
  return launch_tiles(a, task, *device, true, many_tiles(places, a.experts, a.list.many_rows), stream, programmatic);
}

}  // namespace

cudaError_t experts_linear(const ExpertArguments& a, cudaStream_t stream, bool programmatic) {
  return launch_listed(a, true, stream, programmatic);
}

cudaError_t experts_left(const ExpertArguments& a, cudaStream_t stream, bool programmatic) {
  return launch_listed(a, false, stream, programmatic);
}

}  // namespace millrace::cuda
