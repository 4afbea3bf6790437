// linear_decode: from arguments to a task and its plan. The kernel is in linear_decode.cuh.
#include "cuda/linear_decode.cuh"
#include "cuda/linear_decode_shared.cuh"
#include "cuda/linear_decode_wide.cuh"

namespace millrace::cuda {
namespace {

int chunk_slices(WeightType type) {
  switch (type) {
    case WeightType::q4:
      return 8;
    case WeightType::f32:
      return 1;
    default:
      return 2;
  }
}

bool divides_chunk(int group_slices) {
  return group_slices == 2 || group_slices == 4 || group_slices == 8;
}

int chunks_of_group(int slices) {
  return (slices + 7) / 8;
}

int chunks_of(const MatrixLayout& m) {
  if (m.code.type == WeightType::q4) {
    const int per_group = m.code.group / kTileK;
    if (!divides_chunk(per_group)) {
      return (m.groups() - 1) * chunks_of_group(per_group) + chunks_of_group(m.slices() - (m.groups() - 1) * per_group);
    }
  }
  const int per_chunk = chunk_slices(m.code.type);
  return (m.slices() + per_chunk - 1) / per_chunk;
}

// With few row blocks a cluster of two thread blocks takes each, as long as each warp has two chunks, and only where
// they then fill the SMs evenly, once or twice. (96 row blocks in two: 60 SMs had two thread blocks and 72 one, and
// none was free for attention before they ended. Clusters of four: measured, and slower; the barrier of a cluster costs
// a microsecond.)
int splits_of(int n_blocks, int chunks) {
  const bool even = 2 * n_blocks <= kDecodeSms || (10 * n_blocks >= 9 * kDecodeSms && n_blocks <= kDecodeSms);
  return even && chunks >= kDecodeWarps * 4 ? 2 : 1;
}

// Into how many parts, each a thread block of a cluster, the wide kernel cuts k: as many as fill an H100, two an SM.
int wide_parts_of(int n_blocks, int splits) {
  const int groups = (n_blocks + kWideBlocks - 1) / kWideBlocks;
  int parts = splits;
  while (parts < kWideParts && groups * parts * 2 <= 2 * kDecodeSms) parts *= 2;
  return parts;
}

}  // namespace

#if !defined(MILLRACE_CUDA_SM90A)
bool linear_decode_wide_supported() {
  return false;
}
cudaError_t launch_decode_wide(const DecodeTask&, bool, int, cudaStream_t, bool) {
  return cudaErrorNotSupported;
}
cudaError_t prepare_decode_wide() {
  return cudaSuccess;
}
bool linear_decode_shared_takes(const DecodeTask&, int) {
  return false;
}
cudaError_t launch_decode_shared(const DecodeTask&, bool, int, const DecodePlan&, cudaStream_t, bool) {
  return cudaErrorNotSupported;
}
cudaError_t prepare_decode_shared() {
  return cudaSuccess;
}
#endif

cudaError_t linear_decode_prepare() {
  if (const cudaError_t status = prepare_decode_q4(); status != cudaSuccess) return status;
  if (linear_decode_wide_supported()) {
    if (const cudaError_t status = prepare_decode_wide(); status != cudaSuccess) return status;
    if (const cudaError_t status = prepare_decode_shared(); status != cudaSuccess) return status;
  }
  return prepare_decode_float();
}

bool linear_decode_norms(const MatrixLayout& matrix, int rows) {
  // Two rows: thread blocks read the residual stream from the L2 at no cost that shows.
  return rows <= 2 && matrix.code.type == WeightType::q4 && !matrix.code.permuted && NormRows::takes(matrix.k) &&
         rows * norm_pitch(matrix.slices()) <= 20 << 10;
}

cudaError_t decode_device(DecodeDevice* found) {
  constexpr int kDevices = 64;
  static DecodeDevice devices[kDevices];  // the same whoever writes it
  int device = 0;
  if (const cudaError_t status = cudaGetDevice(&device); status != cudaSuccess) return status;
  DecodeDevice d = device < kDevices ? devices[device] : DecodeDevice{};
  if (d.sm_bytes == 0) {
    cudaError_t status = cudaDeviceGetAttribute(&d.block_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    if (status != cudaSuccess) return status;
    status = cudaDeviceGetAttribute(&d.sm_bytes, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device);
    if (status != cudaSuccess) return status;
    int major = 0;
    status = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    if (status != cudaSuccess) return status;
    d.clusters = major >= 9;
    status = cudaDeviceGetAttribute(&d.sms, cudaDevAttrMultiProcessorCount, device);
    if (status != cudaSuccess) return status;
    if (device < kDevices) devices[device] = d;
  }
  *found = d;
  return cudaSuccess;
}

cudaError_t linear_decode_planned(const LinearArguments& a, const DecodePlan& plan, cudaStream_t stream,
                                  bool programmatic) {
  const MatrixLayout& m = a.matrix;
  const bool q4 = m.code.type == WeightType::q4;
  if (a.rows < 1 || a.rows > kDecodeRows || a.x_stride % 8 != 0) return cudaErrorInvalidValue;

  if (a.norm_x != nullptr && !linear_decode_norms(m, a.rows)) return cudaErrorInvalidValue;

  DecodeTask task{};
  task.units = a.weights.units;
  task.unit = a.weights.unit;
  task.early = a.weights.early;
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
  task.chunks = chunks_of(m);
  DecodeDevice device;
  if (const cudaError_t status = decode_device(&device); status != cudaSuccess) return status;
  task.splits = !device.clusters ? 1 : plan.splits > 0 ? plan.splits : splits_of(task.n_blocks, task.chunks);
  task.step = kDecodeWarps * task.splits;
  const int parts = wide_parts_of(task.n_blocks, task.splits);
  task.sum_warps = task.step / parts;
  task.rounds = (task.chunks + task.step - 1) / task.step;
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
  const bool wide = plan.wide_from > 0 ? task.rows >= plan.wide_from
                                       : task.rows >= kWideFrom && task.n_blocks >= kWideLeastBlocks &&
                                             task.chunks >= kWideLeastChunks;
  if (wide && q4 && !task.permuted && parts <= kWideParts && plan.tile_rows == 0 && linear_decode_wide_supported()) {
    return launch_decode_wide(task, m.code.zeros, parts, stream, programmatic);
  }
  const int shared_from = plan.shared_from > 0 ? plan.shared_from : kSharedFrom;
  if (q4 && task.rows >= shared_from && plan.tile_rows == 0 && linear_decode_shared_takes(task, parts)) {
    return launch_decode_shared(task, m.code.zeros, parts, plan, stream, programmatic);
  }
  return q4 ? launch_decode_q4(task, m.code.zeros, plan, stream, programmatic)
            : launch_decode_float(task, m.code.type, plan, stream, programmatic);
}

cudaError_t linear_decode(const LinearArguments& a, cudaStream_t stream, bool programmatic) {
  return linear_decode_planned(a, {}, stream, programmatic);
}

}  // namespace millrace::cuda
