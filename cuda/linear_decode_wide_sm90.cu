// linear_decode for many rows, on Hopper's warpgroup products: x is read by the tensor cores from shared memory, and
// each weight is made float16 once for up to ROWS rows.
//
// The same sums as in linear_decode.cuh, to the bit (tests compare them): a chunk's products are added in the same
// order, group by group, and what is the warp w of thread block `rank` there is the turn v = 8 rank + w here. Turns
// come in `parts` runs, whose sums are added at the end.
//
//   a warpgroup      BLOCKS row blocks by ROWS rows, of one part, turn after turn
//   a thread block   two warpgroups, alone on its SM, and threads that copy. Either (whole, where row blocks are many
//                    and there is one part) side by side: they share x, and take item after item. Or (SPLIT) each with
//                    a part of its own of the same row blocks: their sums, and those of the cluster's other thread
//                    block, meet in shared memory
//
// A warpgroup dequantises a batch of slices, issues all its products, loads the next batch's words beside them, waits,
// scales; meanwhile the other one multiplies. Batches are as long as registers allow: with two slices a batch gate_up
// took 74 us for 128 rows, with these 59.
#include "cuda/common_sm90.cuh"
#include "cuda/linear_decode_wide.cuh"

namespace millrace::cuda {
namespace {

constexpr int kGroups = kWideGroups;
constexpr int kConsumers = 128 * kGroups;
constexpr int kThreads = kWideThreads;
constexpr int kMostStages = kWideStages;
constexpr int kPanel = 64;  // input features of a swizzled row of x

template <class Code, int BLOCKS, int ROWS, bool SPLIT>
struct Wide {
  static constexpr WideShape kShape{Code::kStageBytes, BLOCKS, ROWS, SPLIT};
  static constexpr int kTiles = kShape.tiles();
  static constexpr int kPanels = kShape.panels();
  static constexpr int kXBytes = kShape.x_bytes();
  static constexpr int kWeightStage = kShape.weight_stage();
  static constexpr int kXs = kShape.xs();
  // Slices multiplied at once: as many operands as registers hold.
  static constexpr int kBatch = Code::kSlices / BLOCKS < Code::kGroup ? Code::kSlices / BLOCKS : Code::kGroup;
  static_assert(Code::kSlices * kTileK / kPanel == kPanels);
  __device__ static constexpr int barriers_at(int stages) {
    return WideShape{Code::kStageBytes, BLOCKS, ROWS, SPLIT}.barriers_at(stages);
  }
};

template <int GROUP_SLICES, bool ZEROS, int BLOCKS, int ROWS, bool SPLIT>
__global__ void __launch_bounds__(kThreads, 1)
    linear_decode_wide_kernel(const __grid_constant__ DecodeTask task, const __grid_constant__ CUtensorMap x_map,
                              const int parts) {
  using Code = Q4Code<GROUP_SLICES, ZEROS>;
  using W = Wide<Code, BLOCKS, ROWS, SPLIT>;
  constexpr int kSlices = Code::kSlices, kGroup = Code::kGroup, kBatch = W::kBatch, kBatches = kSlices / kBatch;
  constexpr int kItemBlocks = W::kShape.item_blocks();
  extern __shared__ uint8_t shared[];

  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  const int cluster_blocks = SPLIT ? parts / kGroups : 1;
  const int rank = SPLIT ? static_cast<int>(blockIdx.x) % cluster_blocks : 0;
  const int first_item = static_cast<int>(blockIdx.x) / cluster_blocks;
  const int clusters = static_cast<int>(gridDim.x) / cluster_blocks;
  const int items = (task.n_blocks + kItemBlocks - 1) / kItemBlocks * task.tiles;

  // Shared memory: rings of x and of weights, then barriers; the parts' sums where the rings were.
  const int stages = task.stages;
  const uint32_t x_ring = (shared_address(shared) + 1023) / 1024 * 1024;
  const uint32_t weight_ring = x_ring + stages * W::kXs * W::kXBytes;
  const uint32_t barriers = x_ring + W::barriers_at(stages);
  // Of warpgroup `group`, by stage.
  const auto full = [&](int group, int slot) { return barriers + ((SPLIT ? group : 0) * kMostStages + slot) * 8; };
  const auto empty = [&](int group, int slot) {
    return barriers + ((kGroups + (SPLIT ? group : 0)) * kMostStages + slot) * 8;
  };
  const auto x_at = [&](int group, int slot) { return x_ring + (slot * W::kXs + (SPLIT ? group : 0)) * W::kXBytes; };
  const auto weights_at = [&](int group, int slot) {
    return weight_ring + (slot * kGroups + group) * BLOCKS * W::kWeightStage;
  };

  if (thread == 0) {
#pragma unroll 1
    for (int i = 0; i < stages; i++) {
#pragma unroll
      for (int group = 0; group < W::kXs; group++) {
        barrier_init(full(group, i), 1);
        barrier_init(empty(group, i), SPLIT ? 128 : kConsumers);  // every thread for its own reads
      }
    }
    barrier_init_fence();
  }
  __syncthreads();

  // A part's chunks: turn after turn, `step` from one to the next; then again, for the next item.
  const int group = thread < kConsumers ? thread / 128 : thread / 32 % 4;
  const int part = SPLIT ? rank * kGroups + group : 0;
  const int first_turn = part * task.sum_warps, end_turn = min(first_turn + task.sum_warps, task.chunks);
  int count = 0;
#pragma unroll 1
  for (int turn = first_turn; turn < end_turn; turn++) count += (task.chunks - turn + task.step - 1) / task.step;
  struct Place {
    int turn, chunk;
  };
  const auto turn_ends = [&](const Place& at) { return at.chunk + task.step >= task.chunks; };
  const auto next = [&](Place at) -> Place {
    if (!turn_ends(at)) return {at.turn, at.chunk + task.step};
    const int turn = at.turn + 1 == end_turn ? first_turn : at.turn + 1;
    return {turn, turn};
  };

  if (thread >= kConsumers) {
    give_registers<24>();
    if (lane != 0 || group >= W::kXs) return;
    prefetch_tensor_map(&x_map);
    if (!task.early) wait_for_predecessor();

    // No division between two copies: one thread's latency would hold up all others.
    constexpr int kCopied = SPLIT ? BLOCKS : kGroups * BLOCKS;
    struct Use {
      int item, left, blocks, row;
      const std::byte* from;
      Place at;
    };
    const auto start = [&](Use& use, int item) {
      const int first_block = item / task.tiles * kItemBlocks;
      use.item = item;
      use.left = count;
      use.blocks = min(kCopied, task.n_blocks - first_block);
      use.row = item % task.tiles * ROWS;
      use.from = task.units[task.unit] + task.matrix_offset + static_cast<size_t>(first_block) * task.row_block_bytes;
    };
    const auto advance = [&](Use& use) {
      use.at = next(use.at);
      if (--use.left == 0) start(use, use.item + clusters);
    };
    const auto copy_weights = [&](int slot, const Use& use) {
      const int n = Code::count(task, use.at.chunk);
      const uint32_t to = weights_at(group, slot), barrier = full(group, slot);
      if constexpr (GROUP_SLICES > 0) {
        const uint32_t bytes =
            n == kSlices ? Code::kStageBytes
                         : (n + kGroup - 1) / kGroup * Code::kHeaderBytes + n * static_cast<int>(kQ4TileBytes);
        barrier_arrive_expect(barrier, W::kXBytes + use.blocks * bytes);
        const std::byte* from = use.from + static_cast<unsigned>(use.at.chunk) * Code::kStageBytes;
#pragma unroll
        for (int b = 0; b < kCopied; b++, from += task.row_block_bytes) {
          if (b < use.blocks) bulk_copy(to + b * W::kWeightStage, from, bytes, barrier);
        }
      } else {
        const int at = use.at.chunk / task.chunks_per_group;
        const int within = (use.at.chunk - at * task.chunks_per_group) * kSlices;
        const uint32_t bytes = n * static_cast<int>(kQ4TileBytes);
        barrier_arrive_expect(barrier, W::kXBytes + use.blocks * (Code::kHeaderBytes + bytes));
        const std::byte* header = use.from + static_cast<size_t>(at) * task.group_bytes;
#pragma unroll 1
        for (int b = 0; b < use.blocks; b++, header += task.row_block_bytes) {
          bulk_copy(to + b * W::kWeightStage, header, Code::kHeaderBytes, barrier);
          bulk_copy(to + b * W::kWeightStage + Code::kHeaderBytes, header + Code::kHeaderBytes + within * kQ4TileBytes,
                    bytes, barrier);
        }
      }
    };
    const auto copy_x = [&](int slot, const Use& use) {
      const int column = Code::first_slice(task, use.at.chunk) * kTileK;
#pragma unroll
      for (int panel = 0; panel < W::kPanels; panel++) {
        bulk_copy_tensor(x_at(group, slot) + panel * ROWS * 128, &x_map, column + panel * kPanel, use.row,
                         full(group, slot));
      }
    };

    const int total = count * ((items - first_item + clusters - 1) / clusters), ahead = min(stages, total);
    Use use, x_use;
    use.at = x_use.at = {first_turn, first_turn};
    start(use, first_item);
    start(x_use, first_item);
#pragma unroll 1
    for (int i = 0; i < ahead; i++, advance(use)) copy_weights(i, use);
    allow_successor();
    if (task.early) wait_for_predecessor();
#pragma unroll 1
    for (int i = 0; i < ahead; i++, advance(x_use)) copy_x(i, x_use);
    int slot = 0;
    uint32_t phase = 0;
#pragma unroll 1
    for (int i = ahead; i < total; i++, advance(use)) {
      barrier_wait(empty(group, slot), phase);
      copy_weights(slot, use);
      copy_x(slot, use);
      if (++slot == stages) {
        slot = 0;
        phase ^= 1;
      }
    }
    return;
  }

  take_registers<240>();
  wait_for_predecessor();
  // A product's 64 features: a warp has words `word` and, of two products, the next, of row block `own_block`.
  const int warp = thread / 32 % 4;
  const int own_block = BLOCKS == 1 ? 0 : warp / 2, word = BLOCKS == 1 ? warp : warp % 2 * 2;

  // What a thread has of tile i: features 16 j + g and 16 j + 8 + g of a row block, rows 2 t and 2 t + 1.
  struct Output {
    int block, row, j, g;
  };
  const bool add = task.epilogue == LinearEpilogue::add;
  const auto load_before = [&](const Output& at, float(&before)[4]) {
    const int feature = at.block * kTileN + 16 * at.j + at.g;
#pragma unroll
    for (int c = 0; c < 4; c++) {
      before[c] = 0;
      if (add && at.row + c % 2 < task.rows && feature + c / 2 * 8 < task.n) {
        before[c] = __ldcg(task.y + static_cast<size_t>(at.row + c % 2) * task.y_stride + feature + c / 2 * 8);
      }
    }
  };
  const auto put = [&](const Output& at, const float(&v)[4], const float(&before)[4]) {
    const int feature = at.block * kTileN + 16 * at.j + at.g;
#pragma unroll
    for (int c = 0; c < 2; c++) {
      if (at.row + c >= task.rows || at.block >= task.n_blocks) continue;
      if (task.epilogue == LinearEpilogue::silu_mul) {
        put_act(task, at.row + c, (at.block * 4 + at.j) * 8 + at.g, v[c], v[2 + c]);
      } else {
        float* y = task.y + static_cast<size_t>(at.row + c) * task.y_stride + feature;
        if (feature < task.n) y[0] = add ? before[c] + v[c] : v[c];
        if (feature + 8 < task.n) y[8] = add ? before[2 + c] + v[2 + c] : v[2 + c];
      }
    }
  };

  uint32_t words[kBatch][BLOCKS];
  const auto load_words = [&](uint32_t stage, int b) {
#pragma unroll
    for (int s = 0; s < kBatch; s++) {
      const int slice = b * kBatch + s;
      const uint32_t at = stage + own_block * W::kWeightStage + slice / kGroup * Code::kGroupBytes +
                          Code::kHeaderBytes + slice % kGroup * static_cast<int>(kQ4TileBytes) + lane * 16 + word * 4;
      if constexpr (BLOCKS == 1) {
        words[s][0] = load_shared_4(at);
      } else {
        const uint2 two = load_shared_8(at);
        words[s][0] = two.x;
        words[s][1] = two.y;
      }
    }
  };

  int slot = 0;
  uint32_t phase = 0;
  if (count > 0) {
    barrier_wait(full(group, 0), 0);
    load_words(weights_at(group, 0), 0);
  }
  float d[BLOCKS][ROWS / 2], sums[BLOCKS][ROWS / 2], turns[BLOCKS][ROWS / 2];
#pragma unroll 1
  for (int item = first_item; item < items; item += clusters) {
    const int first_block = item / task.tiles * kItemBlocks + (SPLIT ? 0 : group * BLOCKS);
    const int row_begin = item % task.tiles * ROWS;
    const bool last_item = item + clusters >= items;
#pragma unroll
    for (int f = 0; f < BLOCKS; f++) {
#pragma unroll
      for (int e = 0; e < ROWS / 2; e++) sums[f][e] = turns[f][e] = 0;
    }
    Place at{first_turn, first_turn};
#pragma unroll 1
    for (int i = 0; i < count; i++) {
      const uint32_t stage = weights_at(group, slot);
      const uint64_t x = swizzled_matrix(x_at(group, slot));
      const int n = Code::count(task, at.chunk);
      // After the very last chunk its own stage is read again, for nothing.
      const bool last = last_item && i + 1 == count;
      const bool around = slot + 1 == stages && !last;
      const int next_slot = last ? slot : around ? 0 : slot + 1;
      const uint32_t next_phase = around ? phase ^ 1 : phase;
#pragma unroll
      for (int b = 0; b < kBatches; b++) {
        // Past the last slice there are stale bytes: x is zero there, except where groups do not divide a chunk.
        const uint32_t header = stage + own_block * W::kWeightStage + b * kBatch / kGroup * Code::kGroupBytes;
        uint32_t a[kBatch][BLOCKS][4];
#pragma unroll
        for (int f = 0; f < BLOCKS; f++) {
          ZeroShift shift = nibble_shift(8, 8);
          if constexpr (ZEROS) {
            const uint32_t zeros = header + 128 + lane / 4 * 8 + word + f;
            shift = nibble_shift(load_shared_1(zeros), load_shared_1(zeros + 4));
          }
#pragma unroll
          for (int s = 0; s < kBatch; s++) {
            nibble_registers(words[s][f], 0x64006400, shift, a[s][f]);
            if (GROUP_SLICES == 0 && b * kBatch + s >= n) a[s][f][0] = a[s][f][1] = a[s][f][2] = a[s][f][3] = 0;
          }
        }
#pragma unroll
        for (int s = 0; s < kBatch; s++) {
#pragma unroll
          for (int f = 0; f < BLOCKS; f++) pin_registers(a[s][f]);
        }
#pragma unroll
        for (int f = 0; f < BLOCKS; f++) pin_registers(d[f]);
        wgmma_fence();
#pragma unroll
        for (int s = 0; s < kBatch; s++) {
          const int slice = b * kBatch + s;
#pragma unroll
          for (int f = 0; f < BLOCKS; f++) {
            const uint64_t from = x + slice / 4 * (ROWS * 128 >> 4) + slice % 4 * 2;
            if (slice % kGroup == 0) {
              Wgmma<ROWS>::template run<false>(d[f], a[s][f], from);
            } else {
              Wgmma<ROWS>::run(d[f], a[s][f], from);
            }
          }
        }
        wgmma_commit();
        // Beside the products: the group's scales, the next batch's words.
        const bool edge = (b + 1) * kBatch % kGroup == 0;
        float scale[BLOCKS][2];
        if (edge) {
#pragma unroll
          for (int f = 0; f < BLOCKS; f++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
              const uint16_t bits = load_shared_2(header + lane / 4 * 16 + half * 8 + (word + f) * 2);
              scale[f][half] = task.bfloat16_scales ? __uint_as_float(static_cast<uint32_t>(bits) << 16)
                                                    : __half2float(__ushort_as_half(bits));
              if (kGroup < kSlices && b * kBatch / kGroup * kGroup >= n)
                scale[f][half] = 0;  // stale; the products are zero
            }
          }
        }
        if (b + 1 < kBatches) {
          load_words(stage, b + 1);
        } else {
          barrier_wait(full(group, next_slot), next_phase);
          load_words(weights_at(group, next_slot), 0);
        }
        wgmma_wait<0>();
#pragma unroll
        for (int f = 0; f < BLOCKS; f++) pin_registers(d[f]);
        if (b + 1 == kBatches) barrier_arrive(empty(group, slot));
        if (edge) {
#pragma unroll
          for (int f = 0; f < BLOCKS; f++) {
#pragma unroll
            for (int e = 0; e < ROWS / 2; e++) sums[f][e] = fmaf(scale[f][e / 2 % 2], d[f][e], sums[f][e]);
          }
        }
      }
      if (turn_ends(at)) {
#pragma unroll
        for (int f = 0; f < BLOCKS; f++) {
#pragma unroll
          for (int e = 0; e < ROWS / 2; e++) {
            turns[f][e] += sums[f][e];
            sums[f][e] = 0;
          }
        }
      }
      at = next(at);
      slot = next_slot;
      phase = next_phase;
    }

    // Outputs: of a whole row block from registers; of parts through shared memory.
    if constexpr (!SPLIT) {
#pragma unroll
      for (int f = 0; f < BLOCKS; f++) {
#pragma unroll
        for (int first = 0; first < W::kTiles; first += 4) {
          float before[4][4];
          const auto place = [&](int u) -> Output {
            return {first_block + own_block, row_begin + (first + u) * 8 + lane % 4 * 2, word + f, lane / 4};
          };
#pragma unroll
          for (int u = 0; u < 4; u++) load_before(place(u), before[u]);
#pragma unroll
          for (int u = 0; u < 4; u++) {
            const float* v = turns[f] + 4 * (first + u);
            put(place(u), {v[0], v[1], v[2], v[3]}, before[u]);
          }
        }
      }
    } else {
      constexpr int kTotals = W::kShape.totals();
      barrier_of_threads<1, kConsumers>();
      const uint32_t own = x_ring + group * kTotals;
#pragma unroll
      for (int f = 0; f < BLOCKS; f++) {
#pragma unroll
        for (int tile = 0; tile < W::kTiles; tile++) {
          store_shared_16(own + (((own_block * W::kTiles + tile) * 4 + word + f) * 32 + lane) * 16,
                          {__float_as_uint(turns[f][4 * tile]), __float_as_uint(turns[f][4 * tile + 1]),
                           __float_as_uint(turns[f][4 * tile + 2]), __float_as_uint(turns[f][4 * tile + 3])});
        }
      }
      if (cluster_blocks > 1) {
        cluster_arrive();
      } else {
        barrier_of_threads<1, kConsumers>();
      }
      constexpr int kLeastShare = kTotals / 16 / (kWideParts / kGroups);  // of a cluster's thread block
      constexpr int kAtOnce = kLeastShare / kConsumers < 4 ? kLeastShare / kConsumers : 4;
      const int share = kTotals / 16 / cluster_blocks, parts_of_rank = parts / task.splits;
      static_assert(kLeastShare % (kAtOnce * kConsumers) == 0);
#pragma unroll 1
      for (int first = thread; first < share; first += kAtOnce * kConsumers) {
        const auto place = [&](int u) -> Output {
          const int s = rank * share + first + u * kConsumers;
          return {first_block + s / (128 * W::kTiles), row_begin + s / 128 % W::kTiles * 8 + s % 4 * 2, s / 32 % 4,
                  s % 32 / 4};
        };
        float v[kAtOnce][4] = {}, of_rank[kAtOnce][4] = {}, before[kAtOnce][4];
#pragma unroll
        for (int u = 0; u < kAtOnce; u++) load_before(place(u), before[u]);
        if (cluster_blocks > 1 && first == thread) cluster_wait();
#pragma unroll 1
        for (int p = 0, left = parts_of_rank; p < parts; p++) {
#pragma unroll
          for (int u = 0; u < kAtOnce; u++) {
            const uint32_t from = x_ring + p % kGroups * kTotals + (rank * share + first + u * kConsumers) * 16;
            const uint4 sum = cluster_blocks > 1 ? load_cluster_16(p / kGroups, from) : load_shared_16(from);
            of_rank[u][0] += __uint_as_float(sum.x);
            of_rank[u][1] += __uint_as_float(sum.y);
            of_rank[u][2] += __uint_as_float(sum.z);
            of_rank[u][3] += __uint_as_float(sum.w);
          }
          if (--left > 0) continue;
          left = parts_of_rank;
#pragma unroll
          for (int u = 0; u < kAtOnce; u++) {
#pragma unroll
            for (int c = 0; c < 4; c++) {
              v[u][c] = p + 1 == parts_of_rank ? of_rank[u][c] : v[u][c] + of_rank[u][c];
              of_rank[u][c] = 0;
            }
          }
        }
#pragma unroll
        for (int u = 0; u < kAtOnce; u++) put(place(u), v[u], before[u]);
      }
      if (cluster_blocks > 1) {  // nobody's shared memory goes while others read it
        cluster_arrive();
        cluster_wait();
      }
    }
  }
}

template <int GROUP_SLICES, bool ZEROS, int BLOCKS, int ROWS, bool SPLIT>
struct Launcher {
  static cudaError_t prepare() {
    auto* kernel = linear_decode_wide_kernel<GROUP_SLICES, ZEROS, BLOCKS, ROWS, SPLIT>;
    return allow_shared_memory(reinterpret_cast<const void*>(kernel), 0, true);
  }
  static cudaError_t launch(const DecodeTask& task, const DecodePlan& plan, cudaStream_t stream, bool programmatic) {
    CUtensorMap x_map;
    if (const cudaError_t status = encode_rows(&x_map, task.x, task.rows, task.k, task.x_stride, ROWS);
        status != cudaSuccess) {
      return status;
    }
    return launch_planned(plan.launch, linear_decode_wide_kernel<GROUP_SLICES, ZEROS, BLOCKS, ROWS, SPLIT>, stream,
                          programmatic, task, x_map, plan.parts);
  }
};

template <int GROUP_SLICES, bool ZEROS, int BLOCKS, int ROWS>
cudaError_t launch_shape(const DecodeTask& task, const DecodePlan& plan, cudaStream_t stream, bool programmatic) {
  return plan.parts == 1 ? Launcher<GROUP_SLICES, ZEROS, BLOCKS, ROWS, false>::launch(task, plan, stream, programmatic)
                         : Launcher<GROUP_SLICES, ZEROS, BLOCKS, ROWS, true>::launch(task, plan, stream, programmatic);
}

template <int GROUP_SLICES, bool ZEROS>
cudaError_t launch_rows(const DecodeTask& task, const DecodePlan& plan, cudaStream_t stream, bool programmatic) {
  if (plan.tile_rows == 64 && plan.blocks == 1) {
    return Launcher<GROUP_SLICES, ZEROS, 1, 64, true>::launch(task, plan, stream, programmatic);
  }
  return plan.tile_rows == 64 ? launch_shape<GROUP_SLICES, ZEROS, 2, 64>(task, plan, stream, programmatic)
                              : launch_shape<GROUP_SLICES, ZEROS, 1, 128>(task, plan, stream, programmatic);
}

template <bool ZEROS>
cudaError_t launch_group(const DecodeTask& task, const DecodePlan& plan, cudaStream_t stream, bool programmatic) {
  switch (task.group_slices) {
    case 2:
      return launch_rows<2, ZEROS>(task, plan, stream, programmatic);
    case 4:
      return launch_rows<4, ZEROS>(task, plan, stream, programmatic);
    case 8:
      return launch_rows<8, ZEROS>(task, plan, stream, programmatic);
    default:
      return launch_rows<0, ZEROS>(task, plan, stream, programmatic);
  }
}

template <int GROUP_SLICES>
cudaError_t prepare_group() {
  for (cudaError_t (*prepare)() :
       {Launcher<GROUP_SLICES, false, 1, 64, true>::prepare, Launcher<GROUP_SLICES, true, 1, 64, true>::prepare,
        Launcher<GROUP_SLICES, false, 1, 128, false>::prepare, Launcher<GROUP_SLICES, false, 2, 64, false>::prepare,
        Launcher<GROUP_SLICES, false, 1, 128, true>::prepare, Launcher<GROUP_SLICES, false, 2, 64, true>::prepare,
        Launcher<GROUP_SLICES, true, 1, 128, false>::prepare, Launcher<GROUP_SLICES, true, 2, 64, false>::prepare,
        Launcher<GROUP_SLICES, true, 1, 128, true>::prepare, Launcher<GROUP_SLICES, true, 2, 64, true>::prepare}) {
    if (const cudaError_t status = prepare(); status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

}  // namespace

cudaError_t launch_decode_wide(const DecodeTask& task, bool zeros, const DecodePlan& plan, cudaStream_t stream,
                               bool programmatic) {
  return zeros ? launch_group<true>(task, plan, stream, programmatic)
               : launch_group<false>(task, plan, stream, programmatic);
}

cudaError_t prepare_decode_wide() {
  for (cudaError_t (*prepare)() : {prepare_group<2>, prepare_group<4>, prepare_group<8>, prepare_group<0>}) {
    if (const cudaError_t status = prepare(); status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

}  // namespace millrace::cuda
