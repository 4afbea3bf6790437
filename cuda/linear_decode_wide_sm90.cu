// linear_decode for many rows, on Hopper's warpgroup products: x is read by the tensor cores from shared memory,
// and each weight is made float16 once, however many rows.
//
// The same sums as in linear_decode.cuh, to the bit (tests compare them): a chunk's products are added in the same
// order, group by group, and what is the warp w of thread block `rank` there is the turn v = 8 rank + w here.
//
//   a thread block   two row blocks, one a warpgroup (a warp has 16 of its 64 features), up to 64 rows, and one of
//                    `parts` runs of turns, one turn after the other; two fit an SM
//   a cluster        the parts; each adds up its share of the outputs, part after part, out of the others' shared
//   memory
//
// A stage holds a chunk of each row block, by bulk copies of a warpgroup's own, and the chunk's x, which all copy.
#include "cuda/common_sm90.cuh"
#include "cuda/linear_decode_wide.cuh"

namespace millrace::cuda {
namespace {

constexpr int kThreads = 128 * kWideBlocks;
constexpr int kResidents = 2;  // thread blocks of an SM
constexpr int kMostStages = 6;
constexpr int kPanel = 64;  // input features of a swizzled row of x

template <class Code, int ROWS>
struct Wide {
  static constexpr int kTiles = ROWS / 8;
  static constexpr int kPanels = Code::kSlices * kTileK / kPanel;
  static constexpr int kXBytes = kPanels * ROWS * 128;
  static constexpr int kWeightStage = (Code::kStageBytes + 127) / 128 * 128;
  static constexpr int kTotals = kWideBlocks * kTiles * 4 * 512;
  static constexpr int bytes(int stages) {  // 1024: alignment
    return stages * (kXBytes + kWideBlocks * (kWeightStage + 8)) + kTotals + 1024;
  }
};

// Adds the chunk's products, scaled. Products are issued for all threads or none, and for slices that are not there
// too, with zeros: a branch that only looks divergent makes ptxas serialise them.
template <int GROUP_SLICES, bool ZEROS, int ROWS, bool FULL>
__device__ __forceinline__ void multiply(const DecodeTask& task, uint32_t stage, int warp, int lane, uint64_t x, int n,
                                         float (&sums)[ROWS / 2]) {
  using Code = Q4Code<GROUP_SLICES, ZEROS>;
  constexpr int kGroup = Code::kGroup, kBatch = ROWS > 32 && kGroup > 4 ? 4 : kGroup;
#pragma unroll
  for (int first = 0; first < Code::kSlices; first += kGroup) {
    if (!FULL && first >= n) break;
    const uint32_t header = stage + first / kGroup * Code::kGroupBytes;
    const uint32_t tiles = header + Code::kHeaderBytes + lane * 16 + warp * 4;
    uint32_t shift[2] = {0xe408e408, 0xd480d480};  // -(1024 + zero) and -(64 + zero), twice
    if constexpr (ZEROS) {
      const uint32_t zeros = header + 128 + lane / 4 * 8 + warp;
      shift[0] = 0xe400e400 + load_shared_1(zeros) * 0x00010001;
      shift[1] = 0xd400d400 + load_shared_1(zeros + 4) * 0x00100010;
    }
    const uint32_t scales = header + lane / 4 * 16 + warp * 2;
    float scale[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const uint16_t bits = load_shared_2(scales + half * 8);
      scale[half] = task.bfloat16_scales ? __uint_as_float(static_cast<uint32_t>(bits) << 16)
                                         : __half2float(__ushort_as_half(bits));
    }
    float d[ROWS / 2];
#pragma unroll
    for (int i = 0; i < ROWS / 2; i++) d[i] = 0;
#pragma unroll
    for (int begin = first; begin < first + kGroup; begin += kBatch) {
      uint32_t a[kBatch][4];
#pragma unroll
      for (int b = 0; b < kBatch; b++) {
        const uint32_t word = load_shared_4(tiles + (begin - first + b) * static_cast<int>(kQ4TileBytes));
        const uint32_t high = word >> 8, exponent = 0x64006400;
        a[b][0] = add_half2(and_or(word, 0x000f000f, exponent), shift[0]);
        a[b][1] = sixteenth_plus(and_or(word, 0x00f000f0, exponent), shift[1]);
        a[b][2] = add_half2(and_or(high, 0x000f000f, exponent), shift[0]);
        a[b][3] = sixteenth_plus(and_or(high, 0x00f000f0, exponent), shift[1]);
        if (!FULL && begin + b >= n) a[b][0] = a[b][1] = a[b][2] = a[b][3] = 0;  // stale bytes
      }
#pragma unroll
      for (int b = 0; b < kBatch; b++) pin_registers(a[b]);
      pin_registers(d);
      wgmma_fence();
#pragma unroll
      for (int b = 0; b < kBatch; b++) {
        Wgmma<ROWS>::run(d, a[b], x + (begin + b) / 4 * (ROWS * 128 >> 4) + (begin + b) % 4 * 2);
      }
      wgmma_commit();
      wgmma_wait<0>();
      pin_registers(d);
    }
#pragma unroll
    for (int i = 0; i < ROWS / 2; i++) sums[i] = fmaf(scale[i / 2 % 2], d[i], sums[i]);
  }
}

template <int GROUP_SLICES, bool ZEROS, int ROWS>
__global__ void __launch_bounds__(kThreads, kResidents)
    linear_decode_wide_kernel(const __grid_constant__ DecodeTask task, const int parts) {
  using Code = Q4Code<GROUP_SLICES, ZEROS>;
  using W = Wide<Code, ROWS>;
  extern __shared__ uint8_t shared[];

  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32 % 4;
  const int own_block = thread / 128;
  const int part = static_cast<int>(blockIdx.x) % parts;  // its rank in the cluster
  const int cluster = static_cast<int>(blockIdx.x) / parts;
  const int first_block = cluster / task.tiles * kWideBlocks, row_begin = cluster % task.tiles * ROWS;
  const int rows = min(ROWS, task.rows - row_begin);
  const bool has_block = first_block + own_block < task.n_blocks;

  // Shared memory: rings of x and of weights, barriers, the part's sums.
  const int stages = task.stages;
  const uint32_t x_ring = (shared_address(shared) + 1023) / 1024 * 1024;
  const uint32_t own_ring = x_ring + stages * W::kXBytes + own_block * stages * W::kWeightStage;
  const uint32_t barriers = x_ring + stages * (W::kXBytes + kWideBlocks * W::kWeightStage) + own_block * stages * 8;
  const uint32_t totals = x_ring + stages * (W::kXBytes + kWideBlocks * (W::kWeightStage + 8));

  const bool fetches = thread % 128 < 32;
  if (thread % 128 == 0) {
    for (int i = 0; i < stages; i++) warp_copy_init(barriers + 8 * i);
    warp_copy_init_fence();
  }
  __syncthreads();
  if (!task.early) wait_for_predecessor();

  // The part's chunks: turn after turn, `step` from one to the next.
  struct Place {
    int first, chunk, left;
  };
  const int first_turn = part * task.sum_warps;
  const auto next = [&](Place& at) {
    at.chunk += task.step;
    if (--at.left == 0) at = {at.first + 1, at.first + 1, task.rounds};
  };
  const std::byte* weights =
      task.units[task.unit] + task.matrix_offset + static_cast<size_t>(first_block + own_block) * task.row_block_bytes;
  const auto fetch = [&](int slot, int chunk) {
    if (fetches && has_block && chunk < task.chunks) {
      Code::fetch(task, weights, chunk, own_ring + slot * W::kWeightStage, barriers + 8 * slot, lane);
    } else if (fetches) {  // the count of rounds goes on
      warp_copy_begin(barriers + 8 * slot, 0, lane);
    }
  };
  constexpr int kPieces = Code::kSlices * 2, kRowStep = kThreads / kPieces;  // of 8 input features
  const int x_piece = thread % kPieces, x_row = thread / kPieces;
  const __half* x_from = task.x + static_cast<size_t>(row_begin + x_row) * task.x_stride;
  const uint32_t x_to = x_ring + (x_piece / 8 * ROWS + x_row) * 128 + (x_piece % 8 ^ x_row % 8) * 16;
  static_assert(kRowStep % 8 == 0);
  const auto fetch_x = [&](int slot, int chunk) {
    if (chunk < task.chunks) {
      const int k = Code::first_slice(task, chunk) * kTileK + x_piece * 8;
      const int bytes = max(0, min(16, (task.k - k) * 2));
      const __half* from = x_from + (bytes > 0 ? k : 0);
#pragma unroll
      for (int i = 0; i < (ROWS + kRowStep - 1) / kRowStep; i++) {
        if (x_row + i * kRowStep < rows) {
          copy_part_async_at(x_to + slot * W::kXBytes + i * kRowStep * 128,
                             from + static_cast<size_t>(i * kRowStep) * task.x_stride, bytes);
        }
      }
    }
    commit_copies();
  };

  const int rounds = task.sum_warps * task.rounds;
  Place ahead{first_turn, first_turn, task.rounds};
#pragma unroll 1
  for (int i = 0; i < min(stages - 1, rounds); i++) {
    fetch(i, ahead.chunk);
    next(ahead);
  }
  allow_successor();
  if (task.early) wait_for_predecessor();
  Place x_ahead{first_turn, first_turn, task.rounds};
#pragma unroll 1
  for (int i = 0; i < stages - 1; i++) {
    fetch_x(i, i < rounds ? x_ahead.chunk : task.chunks);
    next(x_ahead);
  }

  const uint32_t own_totals = totals + ((own_block * W::kTiles * 4 + warp) * 32 + lane) * 16;
  float sums[ROWS / 2];
#pragma unroll
  for (int i = 0; i < ROWS / 2; i++) sums[i] = 0;
  Place at{first_turn, first_turn, task.rounds};
  int slot = 0, free_slot = stages - 1;
  uint32_t parity = 0;
#pragma unroll 1
  for (int round = 0; round < rounds; round++) {
    // Of the groups of x, one a round, all but the newest stages - 2 have come.
    if (stages == 6) {
      wait_for_copies<4>();
    } else if (stages == 5) {
      wait_for_copies<3>();
    } else if (stages == 4) {
      wait_for_copies<2>();
    } else if (stages == 3) {
      wait_for_copies<1>();
    } else {
      wait_for_copies<0>();
    }
    async_proxy_fence();
    __syncthreads();  // and all warps have left the stage that is filled next
    const bool more = round + stages - 1 < rounds;
    if (more) {
      fetch(free_slot, ahead.chunk);
      next(ahead);
    }
    fetch_x(free_slot, more ? x_ahead.chunk : task.chunks);
    next(x_ahead);
    if (at.chunk < task.chunks) {
      warp_copy_wait(barriers + 8 * slot, parity);
      __syncwarp();
      const uint64_t x = swizzled_matrix(x_ring + slot * W::kXBytes);
      const uint32_t stage = own_ring + slot * W::kWeightStage;
      const int n = Code::count(task, at.chunk);
      if (n == Code::kSlices) {
        multiply<GROUP_SLICES, ZEROS, ROWS, true>(task, stage, warp, lane, x, Code::kSlices, sums);
      } else {
        multiply<GROUP_SLICES, ZEROS, ROWS, false>(task, stage, warp, lane, x, n, sums);
      }
    }
    free_slot = slot;
    if (++slot == stages) {
      slot = 0;
      parity ^= 1;
    }
    if (at.left == 1) {  // the turn's sums are complete
#pragma unroll
      for (int i = 0; i < W::kTiles; i++) {
        const uint32_t to = own_totals + i * 4 * 512;
        const uint4 before = at.first == first_turn ? uint4{} : load_shared_16(to);
        store_shared_16(to, {__float_as_uint(__uint_as_float(before.x) + sums[4 * i]),
                             __float_as_uint(__uint_as_float(before.y) + sums[4 * i + 1]),
                             __float_as_uint(__uint_as_float(before.z) + sums[4 * i + 2]),
                             __float_as_uint(__uint_as_float(before.w) + sums[4 * i + 3])});
      }
#pragma unroll
      for (int i = 0; i < ROWS / 2; i++) sums[i] = 0;
    }
    next(at);
  }

  // Outputs. Sixteen bytes are, of tile i, features 16 j + g and 16 j + 8 + g of rows 2 t and 2 t + 1.
  if (parts > 1) {
    cluster_arrive();
    cluster_wait();
  } else {
    __syncthreads();
  }
  const int share = W::kTotals / 16 / parts, parts_of_rank = parts / task.splits;
#pragma unroll 2
  for (int i = thread; i < share; i += kThreads) {
    const int s = part * share + i;
    const int g = s % 32 / 4, t = s % 4, j = s / 32 % 4, tile = s / 128 % W::kTiles;
    const int block = first_block + s / (128 * W::kTiles);
    float v[4] = {}, of_rank[4] = {};
#pragma unroll 4
    for (int p = 0; p < parts; p++) {
      const uint4 sum = parts > 1 ? load_cluster_16(p, totals + s * 16) : load_shared_16(totals + s * 16);
      of_rank[0] += __uint_as_float(sum.x);
      of_rank[1] += __uint_as_float(sum.y);
      of_rank[2] += __uint_as_float(sum.z);
      of_rank[3] += __uint_as_float(sum.w);
      if ((p + 1) % parts_of_rank == 0) {
#pragma unroll
        for (int c = 0; c < 4; c++) {
          v[c] = p + 1 == parts_of_rank ? of_rank[c] : v[c] + of_rank[c];
          of_rank[c] = 0;
        }
      }
    }
    const int row = tile * 8 + 2 * t, feature = block * kTileN + 16 * j + g;
    if (block >= task.n_blocks) continue;
#pragma unroll
    for (int c = 0; c < 2; c++) {
      if (row + c >= rows) continue;
      if (task.epilogue == LinearEpilogue::silu_mul) {
        put_act(task, row_begin + row + c, (block * 4 + j) * 8 + g, v[c], v[2 + c]);
      } else {
        float* y = task.y + static_cast<size_t>(row_begin + row + c) * task.y_stride + feature;
        const bool add = task.epilogue == LinearEpilogue::add;
        if (feature < task.n) y[0] = add ? __ldcg(y) + v[c] : v[c];
        if (feature + 8 < task.n) y[8] = add ? __ldcg(y + 8) + v[2 + c] : v[2 + c];
      }
    }
  }
  if (parts > 1) {  // nobody's shared memory goes while others read it
    cluster_arrive();
    cluster_wait();
  }
}

template <int GROUP_SLICES, bool ZEROS, int ROWS>
struct Launcher {
  using W = Wide<Q4Code<GROUP_SLICES, ZEROS>, ROWS>;
  static int stages(const DecodeDevice& device) {
    int stages = kMostStages;
    while (stages > 2 && W::bytes(stages) > device.sm_bytes / kResidents - 1024) stages--;
    return stages;
  }
  static cudaError_t prepare() {
    DecodeDevice device;
    if (const cudaError_t status = decode_device(&device); status != cudaSuccess) return status;
    auto* kernel = linear_decode_wide_kernel<GROUP_SLICES, ZEROS, ROWS>;
    const cudaError_t status =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, W::bytes(stages(device)));
    if (status != cudaSuccess) return status;
    return cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
  }
  static cudaError_t launch(DecodeTask task, int parts, cudaStream_t stream, bool programmatic) {
    DecodeDevice device;
    if (const cudaError_t status = decode_device(&device); status != cudaSuccess) return status;
    task.tiles = (task.rows + ROWS - 1) / ROWS;
    task.stages = stages(device);
    const int groups = (task.n_blocks + kWideBlocks - 1) / kWideBlocks;
    return launch_clusters(parts, linear_decode_wide_kernel<GROUP_SLICES, ZEROS, ROWS>,
                           dim3(static_cast<unsigned>(groups * task.tiles * parts)), dim3(kThreads),
                           static_cast<size_t>(W::bytes(task.stages)), stream, programmatic, task, parts);
  }
};

template <int GROUP_SLICES, bool ZEROS>
cudaError_t launch_rows(const DecodeTask& task, int parts, cudaStream_t stream, bool programmatic) {
  if (task.rows <= 16) return Launcher<GROUP_SLICES, ZEROS, 16>::launch(task, parts, stream, programmatic);
  if (task.rows <= 32) return Launcher<GROUP_SLICES, ZEROS, 32>::launch(task, parts, stream, programmatic);
  return Launcher<GROUP_SLICES, ZEROS, 64>::launch(task, parts, stream, programmatic);
}

template <bool ZEROS>
cudaError_t launch_group(const DecodeTask& task, int parts, cudaStream_t stream, bool programmatic) {
  switch (task.group_slices) {
    case 2:
      return launch_rows<2, ZEROS>(task, parts, stream, programmatic);
    case 4:
      return launch_rows<4, ZEROS>(task, parts, stream, programmatic);
    case 8:
      return launch_rows<8, ZEROS>(task, parts, stream, programmatic);
    default:
      return launch_rows<0, ZEROS>(task, parts, stream, programmatic);
  }
}

template <int GROUP_SLICES>
cudaError_t prepare_group() {
  for (cudaError_t (*prepare)() :
       {Launcher<GROUP_SLICES, false, 16>::prepare, Launcher<GROUP_SLICES, false, 32>::prepare,
        Launcher<GROUP_SLICES, false, 64>::prepare, Launcher<GROUP_SLICES, true, 16>::prepare,
        Launcher<GROUP_SLICES, true, 32>::prepare, Launcher<GROUP_SLICES, true, 64>::prepare}) {
    if (const cudaError_t status = prepare(); status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

}  // namespace

cudaError_t launch_decode_wide(const DecodeTask& task, bool zeros, int parts, cudaStream_t stream, bool programmatic) {
  return zeros ? launch_group<true>(task, parts, stream, programmatic)
               : launch_group<false>(task, parts, stream, programmatic);
}

cudaError_t prepare_decode_wide() {
  for (cudaError_t (*prepare)() : {prepare_group<2>, prepare_group<4>, prepare_group<8>, prepare_group<0>}) {
    if (const cudaError_t status = prepare(); status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

}  // namespace millrace::cuda
