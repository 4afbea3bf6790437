#pragma once
// experts_linear: y[place] = x W_e^T for all places, expert by expert, from the list. A thread block takes a row block
// (64 output features) of an expert and a tile of the rows that chose it; its warps take runs of chunks of K
// (plan/experts.h), which meet in shared memory and are added in order. So a row's bits depend on the matrix and on the
// row alone, whatever the size of its tile.
//
// Each warp has a ring of chunks of weights, by bulk copies, and of x beside them, by asynchronous copies of its own.
// Weights come from wherever the expert's address says: its slab in VRAM, a frame, or RAM that is mapped.
//
// Integers and tables are multiplied exactly, as the CPU does it too (backend/expert_arithmetic.h): each warp makes
// bytes of its x. Floats and FP8 are float16 products.
#include "backend/expert_arithmetic.h"
#include "cuda/linear_decode.cuh"
#include "cuda/moe/experts.h"
#include "cuda/moe/integers.cuh"

namespace millrace::cuda {

struct ExpertTask {
  DecodeTask linear;  // of one expert: what codes ask, offsets from its first byte; x, rows and y are not its own
  const std::byte* const* addresses;
  size_t first, stride;
  int64_t bias_offset;
  ExpertList list;
  bool listed, many;  // many: of the list's tiles
  int each;           // chunks of a warp
  int divisor;        // a place's row of x is place / divisor
  ExpertEpilogue epilogue;
  float alpha, limit;
  bool one_row;  // tile i is its choice i (route.cuh)
  int top_k;
  int sums_at;  // not 0: the tiles of a row block are a cluster, in whose first thread block's shared memory they meet
  CombineArguments combine;
};

// What combine_experts() makes of one row: feature n of the results that the cluster's thread blocks have sent.
__device__ __forceinline__ void combine_row(const ExpertTask& task, int n, uint32_t sums, uint32_t barrier) {
  const CombineArguments& a = task.combine;
  const float* weights = a.routes + task.top_k;
  const float before = a.adds && n < a.width ? a.out[n] : 0.0f;
  const int within = n % kTileN;
  sums += (within / 16 * 8 + within % 8) * 8 + within % 16 / 8 * 4;
  warp_copy_wait(barrier, 0);
  float sum = 0.0f;
  for (int rank = 0; rank < task.top_k; rank++) {
    const float part = __fmul_rn(weights[rank], __uint_as_float(load_shared_4(sums + rank * kTileN * 4)));
    sum = rank == 0 ? part : __fadd_rn(sum, part);
  }
  if (n < a.width) a.out[n] = a.adds ? __fadd_rn(before, __fmul_rn(a.scale, sum)) : sum;
}

// A chunk's bytes, as they lie in shared memory, to their place in a frame: `matrix` is of the row block. By a warp.
template <class Code>
__device__ __noinline__ void keep_chunk(const DecodeTask& task, uint32_t stage, std::byte* matrix, int chunk,
                                        int lane) {
  const auto keep = [lane](uint32_t from, std::byte* to, int bytes) {
#pragma unroll 1
    for (int at = lane * 16; at < bytes; at += 32 * 16) {
      *reinterpret_cast<uint4*>(to + at) = load_shared_16(from + at);
    }
  };
  if constexpr (Code::kRegular) {
    keep(stage, matrix + static_cast<size_t>(chunk) * Code::kStageBytes, Code::chunk_bytes(task, chunk));
  } else if constexpr (requires { Code::kHeaderBytes; }) {  // runs of a group, of which each has its header
    const int group = chunk / task.chunks_per_group;
    const int within = (chunk - group * task.chunks_per_group) * Code::kSlices;
    std::byte* header = matrix + static_cast<size_t>(group) * task.group_bytes;
    keep(stage, header, Code::kHeaderBytes);
    keep(stage + Code::kHeaderBytes, header + Code::kHeaderBytes + within * kQ4TileBytes,
         Code::count(task, chunk) * static_cast<int>(kQ4TileBytes));
  } else {
    keep(stage, matrix + static_cast<size_t>(chunk) * Code::kStageBytes,
         min(Code::kSlices, task.slices - chunk * Code::kSlices) * Code::kTileBytes);
  }
}

// Words that kernels read beside chunks. By a thread block.
__device__ __forceinline__ void keep_floats(const std::byte* from, std::byte* to, int64_t offset, int words,
                                            int thread) {
  for (int i = thread; i < words; i += kDecodeThreads) {
    reinterpret_cast<uint32_t*>(to + offset)[i] = reinterpret_cast<const uint32_t*>(from + offset)[i];
  }
}

template <class Code, int TILES>
__global__ void __launch_bounds__(kDecodeThreads, PortableShape::residents_of(8 * TILES))
    experts_kernel(const __grid_constant__ ExpertTask task) {
  constexpr int kPitch = PortableShape::x_pitch(Code::kSlices);
  constexpr int kRows = 8 * TILES;
  constexpr int kChunkK = Code::kSlices * kTileK;
  constexpr int kWeights = (Code::kStageBytes + 127) / 128 * 128;
  extern __shared__ __align__(128) std::byte shared[];
  const DecodeTask& linear = task.linear;

  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  const int warp = __shfl_sync(~0u, thread / 32, 0);
  const bool meet = TILES == 1 && task.sums_at != 0;
  const int block = static_cast<int>(meet ? blockIdx.y : blockIdx.x);
  const int tile_number = static_cast<int>(meet ? blockIdx.x : blockIdx.y);
  const int first_chunk = warp * task.each, own = max(0, min(task.each, linear.chunks - first_chunk));

  // Shared memory: rings of weights, rings of x, barriers, the tile's rows; in the end, over the rings, the sums.
  const int stages = linear.stages, x_stage_bytes = linear.x_rows * kPitch;
  const uint32_t base = shared_address(shared);
  const uint32_t ring = base + warp * stages * kWeights;
  const uint32_t x_ring = base + kDecodeWarps * stages * kWeights + warp * stages * x_stage_bytes;
  const uint32_t barriers = base + kDecodeWarps * stages * (kWeights + x_stage_bytes) + warp * stages * 16;
  int* places = reinterpret_cast<int*>(shared + kDecodeWarps * stages * (kWeights + x_stage_bytes + 16));
  const uint32_t meeting_sums = base + task.sums_at, meeting = meeting_sums + task.top_k * kTileN * 4;
  if (lane == 0) {
#pragma unroll 1
    for (int i = 0; i < stages; i++) {
      warp_copy_init(barriers + 16 * i);
      lane_copies_init(barriers + 16 * i + 8);
    }
    if (meet && warp == 0) warp_copy_init(meeting);
    warp_copy_init_fence();
  }

  // What is read of the list is on its way together: each step of a chain of loads is most of a microsecond.
  if (!task.listed || !linear.early) wait_for_predecessor();
  const int4 tile = (task.many ? task.list.many : task.list.few)[tile_number];
  const int tiles = task.list.counts[task.many ? 1 : 0];
  const std::byte* slab = task.addresses != nullptr ? nullptr : linear.units[linear.unit] + task.first;
  if (tile_number >= tiles) {
    if (task.listed && linear.early) wait_for_predecessor();  // nobody ends before its predecessor
    return;
  }
  const int rows = tile.z;
  const std::byte* expert = nullptr;
  std::byte* frame = nullptr;  // that what is read goes to
  if (tile.w != 0) {
    const ExpertFill fill = task.list.fills[abs(tile.w) - 1];
    expert = fill.from;
    if (tile.w > 0) frame = fill.to;
  } else {
    expert = task.addresses != nullptr ? task.addresses[tile.x] : slab + static_cast<size_t>(tile.x) * task.stride;
  }
  if (thread < rows) places[thread] = task.one_row ? tile_number : task.list.places[tile.y + thread];
  __syncthreads();
  if (meet) {  // all sums that are sent complete one round of this barrier
    if (warp == 0 && tile_number == 0) warp_copy_begin(meeting, task.top_k * kTileN * 4, lane);
    __syncwarp();
    cluster_arrive_relaxed();
  }

  const std::byte* matrix = expert + linear.matrix_offset + static_cast<size_t>(block) * linear.row_block_bytes;
  const auto fetch = [&](int i, int slot) {
    if (i >= own) return;
    const int chunk = first_chunk + i;
    if constexpr (Code::kRegular) {
      warp_copy_all(ring + slot * kWeights, matrix + static_cast<size_t>(chunk) * Code::kStageBytes,
                    Code::chunk_bytes(linear, chunk), barriers + 16 * slot, lane);
    } else {
      Code::fetch(linear, matrix, chunk, ring + slot * kWeights, barriers + 16 * slot, lane);
    }
  };
  const auto fetch_x = [&](int i, int slot) {
    if (i >= own) return;
    const int first = Code::first_slice(linear, first_chunk + i) * kTileK;
    uint32_t to = x_ring + slot * x_stage_bytes;
    const auto row_of = [&](int row) {
      return linear.x + static_cast<size_t>(places[row] / task.divisor) * linear.x_stride;
    };
    if (!linear.permuted) {
      constexpr int kPieces = kChunkK / 8, kStep = 32 / kPieces;  // of 8 input features
      const int k = first + lane % kPieces * 8, bytes = max(0, min(16, (linear.k - k) * 2));
      const int from = bytes > 0 ? k : 0;
      to += lane / kPieces * kPitch + lane % kPieces * 16;
#pragma unroll 1
      for (int row = lane / kPieces; row < rows; row += kStep) {
        copy_part_async_at(to, row_of(row) + from, bytes);
        to += kStep * kPitch;
      }
    } else {
      const auto* permutation = reinterpret_cast<const int32_t*>(expert + linear.permutation_offset);
#pragma unroll 1
      for (int within = lane; within < kChunkK; within += 32) {
        const int from = first + within < linear.slices * kTileK ? permutation[first + within] : kPadding;
#pragma unroll 1
        for (int row = 0; row < rows; row++) {
          const __half v = from < 0 ? __ushort_as_half(0) : __ldcg(row_of(row) + from);
          store_shared_2(to + row * kPitch + within * 2, __half_as_ushort(v));
        }
      }
    }
    lane_copies_end(barriers + 16 * slot + 8);
  };

#pragma unroll 1
  for (int i = 0; i < stages; i++) fetch(i, i);
  __syncwarp();
  allow_successor();
  if (task.listed && linear.early) wait_for_predecessor();
#pragma unroll 1
  for (int i = 0; i < stages; i++) fetch_x(i, i);

  // Columns beyond the rows repeat the last row and are never stored.
  uint32_t x_first[TILES];
#pragma unroll
  for (int i = 0; i < TILES; i++) {
    const int row = min(8 * i + lane % 8, rows - 1);
    x_first[i] = x_ring + row * kPitch + (Code::kSlices == 1 ? lane / 8 % 2 : lane / 8) * 16;
  }
  Sums<TILES> sums = {};
  int slot = 0;
  uint32_t parity = 0;
  const bool two = own > 1 && stages > 1;  // of one row the first two chunks become bytes at once
#pragma unroll 1
  for (int i = 0; i < own; i++) {
    const int chunk = first_chunk + i;
    warp_copy_wait(barriers + 16 * slot + 8, parity);
    if constexpr (kIsInteger<Code>) {
      const uint32_t x = x_ring + slot * x_stage_bytes;
      const int count = Code::count(linear, chunk);
      if (rows == 1 && i == 0 && two) {
        warp_copy_wait(barriers + 16 + 8, 0);
        quantize_rows<Code::kSlices>({x, x + x_stage_bytes}, {count, Code::count(linear, chunk + 1)}, lane);
        __syncwarp();
      } else if (rows > 1 || i > 1 || !two) {
        quantize_chunk<Code::kSlices>(x, rows, count, lane);
      }
    }
    warp_copy_wait(barriers + 16 * slot, parity);
    __syncwarp();
    uint32_t x_lane[TILES];
#pragma unroll
    for (int n = 0; n < TILES; n++) x_lane[n] = x_first[n] + slot * x_stage_bytes;
    const uint32_t stage = ring + slot * kWeights;
    if constexpr (Code::kRegular) {
      if (Code::count(linear, chunk) == Code::kSlices) {
        Code::template multiply_whole<TILES>(linear, stage, x_lane, lane, sums);
      } else {
        Code::template multiply<TILES>(linear, stage, x_lane, chunk, lane, sums);
      }
    } else {
      Code::template multiply<TILES>(linear, stage, x_lane, chunk, lane, sums);
    }
    if (frame != nullptr) {
      keep_chunk<Code>(linear, stage,
                       frame + linear.matrix_offset + static_cast<size_t>(block) * linear.row_block_bytes, chunk, lane);
    }
    __syncwarp();  // the lanes are done with the stage
    fetch(i + stages, slot);
    fetch_x(i + stages, slot);
    if (++slot == stages) {
      slot = 0;
      parity ^= 1;
    }
  }

  if (frame != nullptr && block == 0) {
    if (task.bias_offset >= 0) keep_floats(expert, frame, task.bias_offset, linear.n, thread);
    if (linear.permuted) {
      keep_floats(expert, frame, static_cast<int64_t>(linear.permutation_offset), linear.slices * kTileK, thread);
    }
  }

  // ---- The warps' sums, in order. Thread (tile, j, lane) has of tile `tile` features 16 j + g and 16 j + 8 + g, rows
  // 2 t and 2 t + 1.
  int stored_places[2 * ((TILES + 1) / 2)];
  const int j = thread / 32 % 4, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int i = 0; i < (TILES + 1) / 2; i++) {
#pragma unroll
    for (int c = 0; c < 2; c++) {
      const int row = (2 * i + thread / 128) * 8 + 2 * t + c;
      stored_places[2 * i + c] = row < rows && row < kRows ? places[row] : -1;
    }
  }
  __syncthreads();  // nobody reads the rings or the rows any more
#pragma unroll
  for (int i = 0; i < TILES; i++) {
#pragma unroll
    for (int k = 0; k < 4; k++) {
      const float(&d)[4] = sums[i][k];
      store_shared_16(base + ((warp * TILES + i) * 128 + k * 32 + lane) * 16,
                      {__float_as_uint(d[0]), __float_as_uint(d[1]), __float_as_uint(d[2]), __float_as_uint(d[3])});
    }
  }
  __syncthreads();
  if (meet) cluster_wait();  // all of the cluster run, so that their shared memory may be written
#pragma unroll
  for (int i = 0; i < (TILES + 1) / 2; i++) {
    const int own_tile = 2 * i + thread / 128;
    if (own_tile >= TILES) break;
    float v[4] = {};
#pragma unroll
    for (int w = 0; w < kDecodeWarps; w++) {
      const uint4 part = load_shared_16(base + ((w * TILES + own_tile) * 128 + thread % 128) * 16);
      v[0] += __uint_as_float(part.x);
      v[1] += __uint_as_float(part.y);
      v[2] += __uint_as_float(part.z);
      v[3] += __uint_as_float(part.w);
    }
    const int n = block * kTileN + 16 * j + g;
    if (task.bias_offset >= 0) {
      const auto* bias = reinterpret_cast<const float*>(expert + task.bias_offset);
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const float added = n + 8 * h < linear.n ? bias[n + 8 * h] : 0.0f;
        v[2 * h] += added;
        v[2 * h + 1] += added;
      }
    }
    if (meet) {
      if (t == 0) {
        const uint32_t to = meeting_sums + stored_places[2 * i] * kTileN * 4 + (j * 8 + g) * 8;
        store_cluster_counted_8(0, to, meeting, make_float2(v[0], v[2]));
      }
      continue;
    }
#pragma unroll
    for (int c = 0; c < 2; c++) {
      const int place = stored_places[2 * i + c];
      if (place < 0) continue;
      if (task.epilogue == ExpertEpilogue::store) {
        float* y = linear.y + static_cast<size_t>(place) * linear.y_stride + n;
        if (n < linear.n) y[0] = v[c];
        if (n + 8 < linear.n) y[8] = v[2 + c];
      } else {
        const int feature = (block * 4 + j) * 8 + g;
        const float value = task.epilogue == ExpertEpilogue::silu
                                ? expert_silu(v[c], v[2 + c])
                                : expert_clamped_swiglu(v[c], v[2 + c], task.alpha, task.limit);
        if (feature < linear.intermediate) {
          linear.act[static_cast<size_t>(place) * linear.act_stride + feature] = saturated_half(value);
        }
      }
    }
  }
  if (meet && tile_number == 0 && thread < kTileN) combine_row(task, block * kTileN + thread, meeting_sums, meeting);
}

// ---- Launch, in experts_{q4,q8,k,table,float}.cu.

// tile_rows: kFewRows or kManyRows.
struct ExpertLaunch {
  ExpertTask task;
  ExpertsPlan plan;
  int tile_rows;
  cudaStream_t stream;
  bool programmatic;
};

template <class Code, int TILES>
cudaError_t launch_experts_kernel(const ExpertLaunch& l) {
  const auto kernel = experts_kernel<Code, TILES>;
  static OncePerDevice prepared;
  const cudaError_t status =
      prepared.run([&] { return allow_shared_memory(reinterpret_cast<const void*>(kernel), 0, true); });
  if (status != cudaSuccess) return status;
  return launch_planned(l.plan.launch, kernel, l.stream, l.programmatic, l.task);
}
template <class Code>
cudaError_t launch_experts_code(const ExpertLaunch& l) {
  return l.tile_rows == kFewRows ? launch_experts_kernel<Code, kFewRows / 8>(l)
                                 : launch_experts_kernel<Code, kManyRows / 8>(l);
}

// Of integers and tables.
template <class Layout, WeightType TYPE, bool ZEROS = false>
cudaError_t launch_experts_integers(const ExpertLaunch& l) {
  return launch_experts_code<IntegerCode<Layout, TYPE, ZEROS>>(l);
}

cudaError_t launch_experts_q4(const ExpertLaunch& launch, bool zeros);
cudaError_t launch_experts_float(const ExpertLaunch& launch, WeightType type);
cudaError_t launch_experts_q8(const ExpertLaunch& launch, const MatrixCode& code);
cudaError_t launch_experts_k(const ExpertLaunch& launch, const MatrixCode& code);
cudaError_t launch_experts_table(const ExpertLaunch& launch, const MatrixCode& code);

}  // namespace millrace::cuda
