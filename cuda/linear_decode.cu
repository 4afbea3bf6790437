// linear_decode: from arguments and their plan (plan/decode.h) to a task. The kernel is in linear_decode.cuh.
#include "cuda/linear_decode.cuh"
#include "cuda/linear_decode_shared.cuh"
#include "cuda/linear_decode_wide.cuh"

namespace millrace::cuda {

#if !defined(MILLRACE_CUDA_SM90A)
bool sm90_kernels() {
  return false;
}
cudaError_t launch_decode_wide(const DecodeTask&, bool, const DecodePlan&, cudaStream_t, bool) {
  return cudaErrorNotSupported;
}
cudaError_t prepare_decode_wide() {
  return cudaSuccess;
}
cudaError_t launch_decode_shared(const DecodeTask&, bool, const DecodePlan&, cudaStream_t, bool) {
  return cudaErrorNotSupported;
}
cudaError_t prepare_decode_shared() {
  return cudaSuccess;
}
#endif

cudaError_t linear_decode_prepare() {
  const DeviceFacts* device = nullptr;
  if (const cudaError_t status = device_facts(&device); status != cudaSuccess) return status;
  if (const cudaError_t status = prepare_decode_q4(); status != cudaSuccess) return status;
  if (device->sm90) {
    if (const cudaError_t status = prepare_decode_wide(); status != cudaSuccess) return status;
    if (const cudaError_t status = prepare_decode_shared(); status != cudaSuccess) return status;
  }
  for (cudaError_t (*prepare)() : {prepare_decode_q8, prepare_decode_k, prepare_decode_table}) {
    if (const cudaError_t status = prepare(); status != cudaSuccess) return status;
  }
  return prepare_decode_float();
}

cudaError_t linear_decode_tuned(const LinearArguments& a, const DecodeTuning& tuning, cudaStream_t stream,
                                bool programmatic) {
  const MatrixLayout& m = a.matrix;
  const bool q4 = m.code.type == WeightType::q4;
  const bool aligned = a.x_stride % 8 == 0 && reinterpret_cast<uintptr_t>(a.x) % 16 == 0;
  if (a.rows < 1 || a.rows > kDecodeRows || !aligned) return cudaErrorInvalidValue;
  if (a.norm_x != nullptr && !decode_norms(m, a.rows)) return cudaErrorInvalidValue;
  if ((a.leads || a.follows) && (a.rows > kSideBySideRows || !a.weights.early)) return cudaErrorInvalidValue;
  const DeviceFacts* device = nullptr;
  if (const cudaError_t status = device_facts(&device); status != cudaSuccess) return status;
  const auto plan = plan_decode(*device, m, a.rows, a.norm_x != nullptr, tuning);
  if (!plan) return cudaErrorInvalidConfiguration;

  DecodeTask task{};
  task.units = a.weights.units;
  task.unit = a.weights.unit;
  task.early = a.weights.early;
  task.leads = a.leads;
  task.follows = a.follows;
  task.permuted = m.code.permuted;
  task.bfloat16_scales = m.code.scale == ScaleType::bf16;
  task.matrix_offset = m.offset;
  task.permutation_offset = m.permutation_offset;
  task.row_block_bytes = m.row_block_bytes();
  task.slices = m.slices();
  if (q4) {
    task.group_slices = m.code.group / kTileK;
    task.group_bytes = static_cast<int>(m.group_bytes());
    task.chunks_per_group = chunks_of_group(task.group_slices);
  }
  task.n = m.n;
  task.n_blocks = m.n_blocks();
  task.chunks = plan->chunks;
  task.rounds = plan->rounds;
  task.step = plan->step;
  task.stripes = plan->stripes;
  task.splits = plan->splits;
  task.sum_warps = plan->sum_warps;
  task.tiles = plan->tiles;
  task.stages = plan->stages;
  task.x_stages = plan->x_stages;
  task.x_rows = plan->x_rows;
  task.x = a.x;
  task.x_stride = a.x_stride;
  task.k = m.k;
  task.norm_x = a.norm_x;
  task.norm_offset = a.norm_offset;
  task.norm_epsilon = a.norm_epsilon;
  task.epilogue = a.epilogue;
  task.rows = a.rows;
  task.y = a.y;
  task.y_stride = a.y_stride;
  task.act = a.act;
  task.act_stride = a.act_stride;
  task.intermediate = a.intermediate;
  switch (plan->kernel) {
    case DecodeKernel::wide:
      return launch_decode_wide(task, m.code.zeros, *plan, stream, programmatic);
    case DecodeKernel::shared:
      return launch_decode_shared(task, m.code.zeros, *plan, stream, programmatic);
    case DecodeKernel::portable:
      break;
  }
  const Code& code = m.code.traits();
  if (q4) return launch_decode_q4(task, m.code.zeros, *plan, stream, programmatic);
  if (!code.grouped()) return launch_decode_float(task, m.code.type, *plan, stream, programmatic);
  const auto launch = code.levels == Levels::table ? launch_decode_table
                      : code.bits == 8             ? launch_decode_q8
                                                   : launch_decode_k;
  return launch(task, m.code, *plan, stream, programmatic);
}

cudaError_t linear_decode(const LinearArguments& a, cudaStream_t stream, bool programmatic) {
  if (!a.matrix.code.permuted || a.gathered == nullptr || a.rows <= kGatherInPlaceRows) {
    return linear_decode_tuned(a, {}, stream, programmatic);
  }
  // The same products in the same order, whoever put x in order.
  if (const cudaError_t status = linear_gather(a, stream, programmatic); status != cudaSuccess) return status;
  LinearArguments stored = a;
  stored.matrix.code.permuted = false;
  stored.matrix.k = a.matrix.k_stored;
  stored.x = a.gathered;
  stored.x_stride = a.matrix.k_stored;
  return linear_decode_tuned(stored, {}, stream, programmatic);
}

}  // namespace millrace::cuda
