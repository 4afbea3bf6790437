// Linears over many activation rows: y = x W^T, bound by the tensor cores. One block computes 128 output features of
// ROWS activation rows; a warp 64 features (one tile of the slab, the A operand, from shared memory in fragment order)
// by ROWS / 2 rows (the B operand, by ldmatrix). Input features come in stages of stage_slices tiles, copied
// asynchronously STAGES - 1 ahead. They are summed in stored order by one accumulator, whatever the tile, so a row's
// bits don't depend on the launch.
#include "cuda/linear_prefill.cuh"

#include <algorithm>

namespace millrace::cuda {
namespace {

constexpr int kThreads = kMmaThreads;
constexpr int kRowBlocks = kMmaRowBlocks;  // slab row blocks a thread block

using Kind = WeightType;

// bfloat16 and float32 weights enter as float16 of 256 w, which is exact for bfloat16 from 2^-22 to 2^8; float32
// weights have a second term for the remainder.
constexpr float kFloatStep = 256.0f;
__device__ __forceinline__ __half to_half(float w) {
  return __float2half_rn(w != w ? w : fminf(fmaxf(w, -65504.0f), 65504.0f));
}

template <Kind KIND, int ROWS, int STAGES>
__global__ void __launch_bounds__(kThreads, 2) prefill_mma(const __grid_constant__ PrefillTask task) {
  constexpr int kSlices = mma_stage_slices(KIND);
  constexpr int kTileBytes = mma_tile_bytes(KIND);
  constexpr int kWarpRows = ROWS / 2;
  constexpr int kColumns = kWarpRows / 8;        // n8 tiles of a warp
  constexpr int kChunks = kSlices * kTileK / 8;  // 16-byte chunks of a row of x in a stage
  constexpr int kXBytes = ROWS * kChunks * 16;
  constexpr int kStageBytes = mma_stage_bytes(KIND, ROWS);
  static_assert(kStageBytes == kXBytes + kRowBlocks * kSlices * kTileBytes);
  extern __shared__ __align__(128) uint8_t shared[];

  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int block_row = static_cast<int>(blockIdx.x) * ROWS;
  const int first_block = static_cast<int>(blockIdx.y) * kRowBlocks;
  const int own_block = min(first_block + warp % kRowBlocks, task.n_blocks - 1);
  const int warp_row = (warp / kRowBlocks) * kWarpRows;

  if (!task.early) wait_for_predecessor();
  const std::byte* matrix = task.units[task.unit] + task.matrix_offset;
  const std::byte* own_weights = matrix + own_block * task.row_block_bytes;
  if (task.early) wait_for_predecessor();

  const auto tile_offset = [&](int slice) -> size_t {
    if constexpr (KIND == Kind::q4) {
      const int group = slice / task.group_slices;
      return static_cast<size_t>(group) * task.group_bytes + task.header_bytes +
             (slice - group * task.group_slices) * kTileBytes;
    } else {
      return static_cast<size_t>(slice) * kTileBytes;
    }
  };
  // Chunk c of a row lies at c ^ f(row), so that the eight rows of an ldmatrix meet all banks.
  const auto x_place = [](int row, int chunk) {
    const int swizzled = chunk ^ (kChunks == 8 ? row & 7 : (row >> 1) & 3);
    return static_cast<uint32_t>((row * kChunks + swizzled) * 16);
  };

  const int stages = (task.slices + kSlices - 1) / kSlices;
  const auto load_stage = [&](int stage) {
    uint8_t* to = shared + (stage % STAGES) * kStageBytes;
    constexpr int kRowsAtOnce = kThreads / kChunks;
    const int chunk = thread % kChunks;
    const int column = stage * kSlices * kTileK + chunk * 8;
    const int bytes = max(0, min(16, (task.k - column) * 2));
#pragma unroll
    for (int i = 0; i < ROWS / kRowsAtOnce; i++) {
      const int row = thread / kChunks + i * kRowsAtOnce;
      const bool inside = block_row + row < task.rows && bytes > 0;
      const __half* from = inside ? task.x + static_cast<size_t>(block_row + row) * task.x_stride + column : task.x;
      copy_part_async(to + x_place(row, chunk), from, inside ? bytes : 0);
    }
#pragma unroll
    for (int tile = warp; tile < kRowBlocks * kSlices; tile += kThreads / 32) {
      const int slice = stage * kSlices + tile % kSlices;
      const int block = first_block + tile / kSlices;
      const bool inside = slice < task.slices && block < task.n_blocks;
      const std::byte* from = matrix + (inside ? block * task.row_block_bytes + tile_offset(slice) : 0);
#pragma unroll
      for (int i = 0; i < kTileBytes / 512; i++) {
        copy_async(to + kXBytes + tile * kTileBytes + i * 512 + lane * 16, from + (inside ? i * 512 + lane * 16 : 0),
                   inside);
      }
    }
  };

  float sums[4][kColumns][4];
#pragma unroll
  for (int j = 0; j < 4; j++) {
#pragma unroll
    for (int c = 0; c < kColumns; c++) {
#pragma unroll
      for (int i = 0; i < 4; i++) sums[j][c][i] = 0.0f;
    }
  }

  // The current group: this lane's features are (j, h), h = 0 for g = lane / 4, 1 for g + 8.
  float unit[4][2];
  RowCode codes[4][2];
  uint4 next_scales{};
  uint2 next_zeros{};
  int next_group = 0, slices_left = 0;
  const auto fetch_group = [&](int group) {
    const std::byte* header = own_weights + static_cast<size_t>(group) * task.group_bytes;
    next_scales = *reinterpret_cast<const uint4*>(header + lane / 4 * 16);
    if (task.zeros) next_zeros = *reinterpret_cast<const uint2*>(header + 128 + lane / 4 * 8);
  };
  const auto enter_group = [&] {
    const uint32_t scales[4] = {next_scales.x, next_scales.y, next_scales.z, next_scales.w};
    const uint32_t zeros[2] = {next_zeros.x, next_zeros.y};
#pragma unroll
    for (int h = 0; h < 2; h++) {
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const int index = 4 * h + j;
        const float scale =
            scale_of(static_cast<uint16_t>(scales[index / 2] >> (16 * (index % 2))), task.bfloat16_scales);
        bool live;
        const float now = unit_of_scale(scale, live);
        const int zero = task.zeros ? static_cast<int>((zeros[h] >> (8 * j)) & 0xff) : 8;
        codes[j][h] = row_code(h == 1, zero, live);
        if (next_group > 0) {
          const float ratio = __fdividef(unit[j][h], now);
#pragma unroll
          for (int c = 0; c < kColumns; c++) {
            sums[j][c][2 * h] *= ratio;
            sums[j][c][2 * h + 1] *= ratio;
          }
        }
        unit[j][h] = now;
      }
    }
    next_group++;
    slices_left = task.group_slices;
    if (next_group * task.group_slices < task.slices) fetch_group(next_group);
  };

  if constexpr (KIND == Kind::q4) fetch_group(0);
#pragma unroll
  for (int s = 0; s < STAGES - 1; s++) {
    if (s < stages) load_stage(s);
    commit_copies();
  }

  for (int stage = 0; stage < stages; stage++) {
    wait_for_copies<STAGES - 2>();
    __syncthreads();
    if (stage + STAGES - 1 < stages) load_stage(stage + STAGES - 1);
    commit_copies();

    const uint8_t* x_base = shared + (stage % STAGES) * kStageBytes;
    const uint8_t* tiles = x_base + kXBytes + (warp % kRowBlocks) * kSlices * kTileBytes;
#pragma unroll
    for (int s = 0; s < kSlices; s++) {
      if (stage * kSlices + s >= task.slices) break;
      uint32_t b[kColumns][2];
#pragma unroll
      for (int c = 0; c < kColumns; c += 2) {
        const int row = warp_row + c * 8 + (lane / 16) * 8 + lane % 8;
        uint32_t m[4];
        load_matrices(m, x_base + x_place(row, 2 * s + (lane / 8) % 2));
        b[c][0] = m[0], b[c][1] = m[1], b[c + 1][0] = m[2], b[c + 1][1] = m[3];
      }
      const uint8_t* tile = tiles + s * kTileBytes;
      if constexpr (KIND == Kind::q4) {
        if (slices_left == 0) enter_group();
        slices_left--;
        const uint4 words = *reinterpret_cast<const uint4*>(tile + lane * 16);
        const uint32_t word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
        for (int j = 0; j < 4; j++) {
          uint32_t a[4];
          dequantise(word[j], codes[j][0], codes[j][1], a);
#pragma unroll
          for (int c = 0; c < kColumns; c++) mma_m16n8k16(sums[j][c], a[0], a[1], a[2], a[3], b[c][0], b[c][1]);
        }
      } else {
#pragma unroll
        for (int j = 0; j < 4; j++) {
          uint32_t a[4], rest[4];
          const uint8_t* from = tile + (j * 32 + lane) * (kTileBytes / 128);
          if constexpr (KIND == Kind::f32) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
              const float2 w = *reinterpret_cast<const float2*>(from + i * 8);
              const __half2 high = __halves2half2(to_half(w.x * kFloatStep), to_half(w.y * kFloatStep));
              a[i] = bits_of(high);
              rest[i] = bits_of(__halves2half2(to_half(w.x * kFloatStep - __low2float(high)),
                                               to_half(w.y * kFloatStep - __high2float(high))));
            }
          } else {
            const uint4 v = *reinterpret_cast<const uint4*>(from);
            a[0] = v.x, a[1] = v.y, a[2] = v.z, a[3] = v.w;
            if constexpr (KIND == Kind::bf16) {
#pragma unroll
              for (int i = 0; i < 4; i++) {
                a[i] = bits_of(__halves2half2(to_half(__uint_as_float(a[i] << 16) * kFloatStep),
                                              to_half(__uint_as_float(a[i] & 0xffff0000) * kFloatStep)));
              }
            }
          }
#pragma unroll
          for (int c = 0; c < kColumns; c++) {
            mma_m16n8k16(sums[j][c], a[0], a[1], a[2], a[3], b[c][0], b[c][1]);
            if constexpr (KIND == Kind::f32) {
              mma_m16n8k16(sums[j][c], rest[0], rest[1], rest[2], rest[3], b[c][0], b[c][1]);
            }
          }
        }
      }
    }
  }
  allow_successor();

#pragma unroll
  for (int j = 0; j < 4; j++) {
    const int feature = (first_block + warp % kRowBlocks) * kTileN + 16 * j + lane / 4;
    float factor[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
      factor[h] = KIND == Kind::q4 ? unit[j][h] : KIND == Kind::f16 ? 1.0f : 1 / kFloatStep;
    }
#pragma unroll
    for (int c = 0; c < kColumns; c++) {
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const int row = block_row + warp_row + c * 8 + lane % 4 * 2 + i;
        if (row >= task.rows) continue;
        const float v[2] = {sums[j][c][i] * factor[0], sums[j][c][2 + i] * factor[1]};
        if (task.epilogue == LinearEpilogue::silu_mul) {
          const int out = feature / 16 * 8 + lane / 4;
          if (feature + 8 < task.n && out < task.intermediate) {
            task.act[static_cast<size_t>(row) * task.act_stride + out] = silu_times(v[0], v[1]);
          }
        } else {
          float* to = task.y + static_cast<size_t>(row) * task.y_stride + feature;
#pragma unroll
          for (int h = 0; h < 2; h++) {
            if (feature + 8 * h < task.n) to[8 * h] = task.epilogue == LinearEpilogue::add ? to[8 * h] + v[h] : v[h];
          }
        }
      }
    }
  }
}

// x in stored order: gathered[row, i] = x[row, permutation[i]], 0 for padding. One block a row.
__global__ void gather_features(const std::byte* const* units, int unit, size_t permutation_offset, const __half* x,
                                int x_stride, int k_stored, __half* gathered) {
  wait_for_predecessor();
  const auto* permutation = reinterpret_cast<const int4*>(units[unit] + permutation_offset);
  const __half* from = x + static_cast<size_t>(blockIdx.x) * x_stride;
  auto* to = reinterpret_cast<uint4*>(gathered + static_cast<size_t>(blockIdx.x) * k_stored);
  const auto pick = [&](int feature) -> uint32_t { return feature < 0 ? 0u : __half_as_ushort(from[feature]); };
  for (int i = static_cast<int>(threadIdx.x); i < k_stored / 8; i += static_cast<int>(blockDim.x)) {
    const int4 p = permutation[2 * i], q = permutation[2 * i + 1];
    to[i] = {pick(p.x) | pick(p.y) << 16, pick(p.z) | pick(p.w) << 16, pick(q.x) | pick(q.y) << 16,
             pick(q.z) | pick(q.w) << 16};
  }
  allow_successor();
}

template <Kind KIND, int ROWS, int STAGES>
cudaError_t start(const PrefillTask& task, const PrefillPlan& plan, cudaStream_t stream, bool programmatic) {
  const auto kernel = prefill_mma<KIND, ROWS, STAGES>;
  static OncePerDevice prepared;
  const cudaError_t status =
      prepared.run([&] { return allow_shared_memory(reinterpret_cast<const void*>(kernel), 0, false); });
  return status != cudaSuccess ? status : launch_planned(plan.launch, kernel, stream, programmatic, task);
}

template <Kind KIND>
cudaError_t start_kind(const PrefillTask& task, const PrefillPlan& plan, cudaStream_t stream, bool programmatic) {
  if constexpr (KIND == Kind::q4) {
    if (plan.stages == 4) {
      return plan.rows == 64 ? start<KIND, 64, 4>(task, plan, stream, programmatic)
                             : start<KIND, 128, 4>(task, plan, stream, programmatic);
    }
  }
  return plan.rows == 64 ? start<KIND, 64, 2>(task, plan, stream, programmatic)
                         : start<KIND, 128, 2>(task, plan, stream, programmatic);
}

}  // namespace

#if !defined(MILLRACE_CUDA_SM90A)
cudaError_t linear_prefill_sm90(const PrefillTask&, const PrefillPlan&, cudaStream_t, bool) {
  return cudaErrorNotSupported;
}
cudaError_t prefill_float_sm90(const PrefillTask&, const MatrixCode&, const PrefillPlan&, cudaStream_t, bool) {
  return cudaErrorNotSupported;
}
cudaError_t prefill_q8_sm90(const PrefillTask&, const MatrixCode&, const PrefillPlan&, cudaStream_t, bool) {
  return cudaErrorNotSupported;
}
cudaError_t prefill_k_sm90(const PrefillTask&, const MatrixCode&, const PrefillPlan&, cudaStream_t, bool) {
  return cudaErrorNotSupported;
}
cudaError_t prefill_table_sm90(const PrefillTask&, const MatrixCode&, const PrefillPlan&, cudaStream_t, bool) {
  return cudaErrorNotSupported;
}
#endif

size_t linear_gathered_bytes(const MatrixLayout& matrix, int rows) {
  return matrix.code.permuted ? static_cast<size_t>(rows) * matrix.k_stored * sizeof(__half) : 0;
}

cudaError_t linear_gather(const LinearArguments& a, cudaStream_t stream, bool programmatic) {
  return launch(gather_features, dim3(a.rows), dim3(256), 0, stream, programmatic, a.weights.units, a.weights.unit,
                a.matrix.permutation_offset, a.x, a.x_stride, a.matrix.k_stored, a.gathered);
}

namespace {

cudaError_t by_decode(const LinearArguments& arguments, cudaStream_t stream, bool programmatic) {
  if (arguments.rows <= 0) return cudaErrorInvalidValue;
  LinearArguments part = arguments;
  for (int row = 0; row < arguments.rows; row += kDecodeRows) {
    part.rows = std::min(kDecodeRows, arguments.rows - row);
    if (const cudaError_t status = linear_decode(part, stream, programmatic); status != cudaSuccess) return status;
    part.x += static_cast<ptrdiff_t>(part.rows) * arguments.x_stride;
    if (part.y != nullptr) part.y += static_cast<ptrdiff_t>(part.rows) * arguments.y_stride;
    if (part.act != nullptr) part.act += static_cast<ptrdiff_t>(part.rows) * arguments.act_stride;
  }
  return cudaSuccess;
}

}  // namespace

PrefillTask prefill_task_of(const MatrixLayout& matrix) {
  PrefillTask task{};
  task.matrix_offset = matrix.offset;
  task.row_block_bytes = matrix.row_block_bytes();
  task.slices = matrix.slices();
  task.bfloat16_scales = matrix.code.scale == ScaleType::bf16;
  if (matrix.code.type == WeightType::q4) {
    task.zeros = matrix.code.zeros;
    task.group_bytes = static_cast<int>(matrix.group_bytes());
    task.header_bytes = static_cast<int>(matrix.group_header_bytes());
    task.group_slices = matrix.code.group / kTileK;
  }
  task.n = matrix.n;
  task.n_blocks = matrix.n_blocks();
  task.k = matrix.k;
  return task;
}

cudaError_t linear_prefill_wgmma(const PrefillTask& task, const MatrixCode& code, const PrefillPlan& plan,
                                 cudaStream_t stream, bool programmatic) {
  if (code.type == WeightType::q4) return linear_prefill_sm90(task, plan, stream, programmatic);
  const Code& traits = code.traits();
  const auto start = !traits.grouped()                ? prefill_float_sm90
                     : traits.levels == Levels::table ? prefill_table_sm90
                     : traits.bits == 8               ? prefill_q8_sm90
                                                      : prefill_k_sm90;
  return start(task, code, plan, stream, programmatic);
}

cudaError_t linear_prefill(const LinearArguments& arguments, cudaStream_t stream, bool programmatic) {
  const MatrixLayout& matrix = arguments.matrix;
  const DeviceFacts* device = nullptr;
  if (const cudaError_t status = device_facts(&device); status != cudaSuccess) return status;
  const auto plan = arguments.rows > 0 ? plan_prefill(*device, matrix, arguments.rows) : std::nullopt;
  if (!plan && prefill_by_decode(matrix.code.type)) return by_decode(arguments, stream, programmatic);
  if (arguments.rows <= 0 || arguments.x_stride % 8 != 0 || (matrix.code.permuted && arguments.gathered == nullptr)) {
    return cudaErrorInvalidValue;
  }
  if (!plan) return cudaErrorInvalidConfiguration;
  PrefillTask task = prefill_task_of(matrix);
  task.units = arguments.weights.units;
  task.unit = arguments.weights.unit;
  task.early = arguments.weights.early;
  task.x = arguments.x;
  task.x_stride = arguments.x_stride;
  task.rows = arguments.rows;
  task.epilogue = arguments.epilogue;
  task.y = arguments.y;
  task.y_stride = arguments.y_stride;
  task.act = arguments.act;
  task.act_stride = arguments.act_stride;
  task.intermediate = arguments.intermediate;
  if (matrix.code.permuted) {
    const cudaError_t status = linear_gather(arguments, stream, programmatic);
    if (status != cudaSuccess) return status;
    task.x = arguments.gathered;
    task.x_stride = task.k = matrix.k_stored;
  }
  if (plan->wgmma) return linear_prefill_wgmma(task, matrix.code, *plan, stream, programmatic);
  switch (matrix.code.type) {
    case WeightType::q4:
      return start_kind<Kind::q4>(task, *plan, stream, programmatic);
    case WeightType::f16:
      return start_kind<Kind::f16>(task, *plan, stream, programmatic);
    case WeightType::bf16:
      return start_kind<Kind::bf16>(task, *plan, stream, programmatic);
    case WeightType::f32:
      return start_kind<Kind::f32>(task, *plan, stream, programmatic);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace millrace::cuda
