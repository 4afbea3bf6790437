// linear_decode for many rows, on Hopper's warpgroup products: x is read by the tensor cores from shared memory, and
// each weight is made float16 once for up to ROWS rows.
//
// The same sums as in linear_decode.cuh, to the bit (tests compare them): a chunk's products are added in the same
// order, group by group, and what is the warp w of thread block `rank` there is the turn v = 8 rank + w here. Turns
// come in `parts` runs, whose sums are added at the end.
//
//   a warpgroup      one row block by ROWS rows, of one part or of the whole k, turn after turn
//   a thread block   BLOCKS row blocks by PARTS parts, and a thread that copies. Row blocks share x
//   a cluster        the parts of the same row blocks, whose sums meet in shared memory
//
// A warpgroup makes a batch's weights float16, issues their products, loads the next batch's words and the group's
// scales beside them, waits, scales. Meanwhile the others multiply.
#include "cuda/common_sm90.cuh"
#include "cuda/linear_decode_wide.cuh"

namespace millrace::cuda {
namespace {

constexpr int kMostStages = kWideStages;
constexpr int kPanel = 64;  // input features of a swizzled row of x

// Registers of a thread that copies, and of one that multiplies: a launch gives all the same, and they exchange.
constexpr int copy_registers(const WideShape& shape) {
  return shape.groups() == 4 ? 32 : 40;
}
constexpr int registers_of(const WideShape& shape) {
  const int all = 65536 / WideShape::threads_of(shape.groups()) / 8 * 8;
  return (all * (shape.groups() + 1) - copy_registers(shape)) / shape.groups() / 8 * 8;
}

template <class Code, int BLOCKS, int PARTS, int ROWS>
struct Wide {
  static constexpr WideShape kShape{Code::kStageBytes, BLOCKS, PARTS, ROWS};
  static constexpr int kCopyRegisters = copy_registers(kShape), kRegisters = registers_of(kShape);
  static constexpr int kBlocks = BLOCKS, kParts = PARTS, kRows = ROWS;
  static constexpr int kTiles = kShape.tiles();
  static constexpr int kConsumers = kShape.consumers();
  static constexpr int kXBytes = kShape.x_bytes();
  static constexpr int kWeightStage = kShape.weight_stage();
  static constexpr int kStage = kShape.stage();
  static constexpr int kGroupTotals = kShape.group_totals();
  static constexpr int kTotals = kShape.groups() * kGroupTotals;
  static constexpr int kBatch = Code::kGroup < kShape.batch() ? Code::kGroup : kShape.batch();  // slices
  static constexpr int kBatches = Code::kSlices / kBatch;
  static_assert(Code::kSlices * kTileK / kPanel == WideShape::kPanels);
};

// Where things lie in shared memory: rings of x and of weights, warpgroups' sums, barriers.
template <class W>
struct WidePlaces {
  uint32_t base;
  int stages;

  __device__ uint32_t x(int part, int slot) const { return base + (slot * W::kParts + part) * W::kXBytes; }
  __device__ uint32_t weights(int part, int block, int slot) const {
    return base + stages * (W::kParts * W::kXBytes) +
           ((slot * W::kParts + part) * W::kBlocks + block) * W::kWeightStage;
  }
  __device__ uint32_t totals() const { return base + stages * W::kStage; }
  // A stage is there; all that read it have done so.
  __device__ uint32_t full(int part, int slot) const { return totals() + W::kTotals + (part * kMostStages + slot) * 8; }
  __device__ uint32_t empty(int part, int slot) const { return full(W::kParts + part, slot); }
};

// A part's chunks: turn after turn, `step` from one to the next; then again, for the next item.
struct WidePart {
  int first_turn, end_turn, count;

  __device__ WidePart(const DecodeTask& task, int part) {
    first_turn = part * task.sum_warps;
    end_turn = min(first_turn + task.sum_warps, task.chunks);
    count = 0;
#pragma unroll 1
    for (int turn = first_turn; turn < end_turn; turn++) count += (task.chunks - turn + task.step - 1) / task.step;
  }
};
struct WidePlace {
  int turn, chunk;

  __device__ bool turn_ends(const DecodeTask& task) const { return chunk + task.step >= task.chunks; }
  __device__ WidePlace next(const DecodeTask& task, const WidePart& part) const {
    if (!turn_ends(task)) return {turn, chunk + task.step};
    const int then = turn + 1 == part.end_turn ? part.first_turn : turn + 1;
    return {then, then};
  }
};

// The copies of a part's stages, in the order in which they are multiplied. No division between two of them: one
// thread's latency would hold up all others.
template <int GROUP_SLICES, class Code, class W>
struct WideCopies {
  const DecodeTask& task;
  const WidePlaces<W>& places;
  const CUtensorMap* x_map;
  const WidePart of;
  const int part;  // of the thread block
  const int clusters;
  // Of the next copy.
  int item, left, blocks, row;
  const std::byte* from;
  WidePlace at;

  __device__ void start(int first_item) {
    at = {of.first_turn, of.first_turn};
    start_item(first_item);
  }
  __device__ void start_item(int next_item) {
    const int first_block = next_item / task.tiles * W::kBlocks;
    item = next_item;
    left = of.count;
    blocks = max(0, min(W::kBlocks, task.n_blocks - first_block));
    row = item % task.tiles * W::kRows;
    from = task.units[task.unit] + task.matrix_offset + static_cast<size_t>(first_block) * task.row_block_bytes;
  }
  __device__ void advance() {
    at = at.next(task, of);
    if (--left == 0) start_item(item + clusters);
  }
  __device__ void copy_weights(int slot) const {
    const uint32_t barrier = places.full(part, slot);
    uint32_t to = places.weights(part, 0, slot);
    const std::byte* chunk = from;
    if constexpr (GROUP_SLICES > 0) {
      const uint32_t bytes = Code::chunk_bytes(task, at.chunk);
      barrier_arrive_expect(barrier, W::kXBytes + blocks * bytes);
      chunk += static_cast<unsigned>(at.chunk) * Code::kStageBytes;
#pragma unroll
      for (int b = 0; b < W::kBlocks; b++, chunk += task.row_block_bytes, to += W::kWeightStage) {
        if (b < blocks) bulk_copy(to, chunk, bytes, barrier);
      }
    } else {
      const int group = at.chunk / task.chunks_per_group;
      const int within = (at.chunk - group * task.chunks_per_group) * Code::kSlices;
      const uint32_t bytes = Code::count(task, at.chunk) * static_cast<int>(kQ4TileBytes);
      barrier_arrive_expect(barrier, W::kXBytes + blocks * (Code::kHeaderBytes + bytes));
      chunk += static_cast<size_t>(group) * task.group_bytes;
#pragma unroll 1
      for (int b = 0; b < blocks; b++, chunk += task.row_block_bytes, to += W::kWeightStage) {
        bulk_copy(to, chunk, Code::kHeaderBytes, barrier);
        bulk_copy(to + Code::kHeaderBytes, chunk + Code::kHeaderBytes + within * kQ4TileBytes, bytes, barrier);
      }
    }
  }
  __device__ void copy_x(int slot) const {
    const int column = Code::first_slice(task, at.chunk) * kTileK;
    const uint32_t to = places.x(part, slot), barrier = places.full(part, slot);
#pragma unroll
    for (int panel = 0; panel < WideShape::kPanels; panel++) {
      bulk_copy_tensor(to + panel * W::kRows * 128, x_map, column + panel * kPanel, row, barrier);
    }
  }
};

template <int GROUP_SLICES, bool ZEROS, int BLOCKS, int PARTS, int ROWS>
__global__ void __launch_bounds__(WideShape::threads_of(BLOCKS* PARTS), 1)
    linear_decode_wide_kernel(const __grid_constant__ DecodeTask task, const __grid_constant__ CUtensorMap x_map,
                              const int parts) {
  using Code = Q4Code<GROUP_SLICES, ZEROS>;
  using W = Wide<Code, BLOCKS, PARTS, ROWS>;
  constexpr int kSlices = Code::kSlices, kGroup = Code::kGroup, kBatch = W::kBatch, kBatches = W::kBatches;
  constexpr int kTiles = W::kTiles, kConsumers = W::kConsumers;
  extern __shared__ uint8_t shared[];

  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  const int part_blocks = parts / PARTS;  // thread blocks of a cluster that have parts of the same row blocks
  const int rank = static_cast<int>(blockIdx.x) % part_blocks;
  const int first_item = static_cast<int>(blockIdx.x) / part_blocks;
  const int clusters = static_cast<int>(gridDim.x) / part_blocks;
  const int items = (task.n_blocks + BLOCKS - 1) / BLOCKS * task.tiles;
  const WidePlaces<W> places{(shared_address(shared) + 1023) / 1024 * 1024, task.stages};

  if (thread == kConsumers) {
#pragma unroll 1
    for (int i = 0; i < task.stages; i++) {
#pragma unroll
      for (int p = 0; p < PARTS; p++) {
        barrier_init(places.full(p, i), 1);
        barrier_init(places.empty(p, i), BLOCKS * 4);  // a warp each
      }
    }
    barrier_init_fence();
  }
  __syncthreads();

  if (thread >= kConsumers) {
    give_registers<W::kCopyRegisters>();
    const int part = thread / 32 % 4;
    if (lane != 0 || part >= PARTS) return;
    prefetch_tensor_map(&x_map);
    if (!task.early) wait_for_predecessor();
    WideCopies<GROUP_SLICES, Code, W> copies{task, places, &x_map, WidePart(task, rank * PARTS + part), part, clusters};
    const int total = copies.of.count * ((items - first_item + clusters - 1) / clusters);
    const int ahead = min(task.stages, total);
    copies.start(first_item);
#pragma unroll 1
    for (int i = 0; i < ahead; i++, copies.advance()) copies.copy_weights(i);
    allow_successor();
    if (task.early) wait_for_predecessor();
    copies.start(first_item);
#pragma unroll 1
    for (int i = 0; i < ahead; i++, copies.advance()) copies.copy_x(i);
    int slot = 0;
    uint32_t phase = 0;
#pragma unroll 1
    for (int i = ahead; i < total; i++, copies.advance()) {
      barrier_wait(places.empty(part, slot), phase);
      copies.copy_weights(slot);
      copies.copy_x(slot);
      if (++slot == task.stages) slot = 0, phase ^= 1;
    }
    return;
  }

  take_registers<W::kRegisters>();
  wait_for_predecessor();
  // From one lane, so that what follows from it lies in uniform registers: descriptors, addresses of stages.
  const int group = __shfl_sync(~0u, thread / 128, 0), own_block = group % BLOCKS, own_part = group / BLOCKS;
  const int warp = thread / 32 % 4;  // of the warpgroup: it has words `warp` of a tile's four
  const WidePart of(task, rank * PARTS + own_part);

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
  // Sums of turns, of a thread alone until its part ends.
  const uint32_t totals = places.totals() + group * W::kGroupTotals + thread % 128 * 16;

  uint32_t words[kBatch];
  const auto header_of = [&](uint32_t stage, int b) { return stage + b * kBatch / kGroup * Code::kGroupBytes; };
  const auto load_words = [&](uint32_t stage, int b) {
#pragma unroll
    for (int s = 0; s < kBatch; s++) {
      const int slice = b * kBatch + s;
      words[s] = load_shared_4(header_of(stage, b) + Code::kHeaderBytes +
                               slice % kGroup * static_cast<int>(kQ4TileBytes) + lane * 16 + warp * 4);
    }
  };

  // Sums of turns are in registers where these are enough, else in shared memory.
  constexpr bool kInRegisters = PARTS == 2 && BLOCKS == 1 && ROWS < 128;
  float d[ROWS / 2], sums[ROWS / 2], turns[kInRegisters ? ROWS / 2 : 1];
  const auto end_turn = [&](bool first) {
    if constexpr (kInRegisters) {
#pragma unroll
      for (int e = 0; e < ROWS / 2; e++) turns[e] += sums[e];
    } else {
#pragma unroll
      for (int i = 0; i < kTiles; i++) {
        const uint32_t at = totals + i * 2048;
        float* v = sums + i * 4;
        float4 total{};
        if (!first) {
          const uint4 bits = load_shared_16(at);
          total = {__uint_as_float(bits.x), __uint_as_float(bits.y), __uint_as_float(bits.z), __uint_as_float(bits.w)};
        }
        store_shared_16(at, {__float_as_uint(total.x + v[0]), __float_as_uint(total.y + v[1]),
                             __float_as_uint(total.z + v[2]), __float_as_uint(total.w + v[3])});
      }
    }
#pragma unroll
    for (int e = 0; e < ROWS / 2; e++) sums[e] = 0;
  };
  const auto release = [&](int of_slot) {
    __syncwarp();
    if (lane == 0) barrier_arrive(places.empty(own_part, of_slot));
  };

  int slot = 0;
  uint32_t phase = 0;
  if (of.count > 0 && first_item < items) {
    barrier_wait(places.full(own_part, 0), 0);
    load_words(places.weights(own_part, own_block, 0), 0);
  }
#pragma unroll 1
  for (int item = first_item; item < items; item += clusters) {
    const int first_block = item / task.tiles * BLOCKS;
    const int row_begin = item % task.tiles * ROWS;
    const bool last_item = item + clusters >= items;
    bool first_turn = true;
#pragma unroll
    for (int e = 0; e < ROWS / 2; e++) sums[e] = 0;
    if constexpr (kInRegisters) {
#pragma unroll
      for (int e = 0; e < ROWS / 2; e++) turns[e] = 0;
    }
    WidePlace at{of.first_turn, of.first_turn};
#pragma unroll 1
    for (int i = 0; i < of.count; i++) {
      const uint32_t stage = places.weights(own_part, own_block, slot);
      const uint64_t x = swizzled_matrix(places.x(own_part, slot));
      const int n = Code::count(task, at.chunk);
      // After the very last chunk its own stage is read again, for nothing.
      const bool last = last_item && i + 1 == of.count;
      const bool around = slot + 1 == task.stages && !last;
      const int next_slot = last ? slot : around ? 0 : slot + 1;
      const uint32_t next_phase = around ? phase ^ 1 : phase;
      const WidePlace next = at.next(task, of);
#pragma unroll
      for (int b = 0; b < kBatches; b++) {
        const bool ends = (b + 1) * kBatch % kGroup == 0, within = b + 1 < kBatches;
        // Past the last slice there are stale bytes: x is zero there, except where groups do not divide a chunk.
        uint32_t a[kBatch][4];
        ZeroShift shift = nibble_shift(8, 8);
        if constexpr (ZEROS) {
          const uint32_t zeros = header_of(stage, b) + 128 + lane / 4 * 8 + warp;
          shift = nibble_shift(load_shared_1(zeros), load_shared_1(zeros + 4));
        }
#pragma unroll
        for (int s = 0; s < kBatch; s++) {
          nibble_registers(words[s], 0x64006400, shift, a[s]);
          if (GROUP_SLICES == 0 && b * kBatch + s >= n) a[s][0] = a[s][1] = a[s][2] = a[s][3] = 0;
        }
#pragma unroll
        for (int s = 0; s < kBatch; s++) pin_registers(a[s]);
        pin_registers(d);
        wgmma_fence();
#pragma unroll
        for (int s = 0; s < kBatch; s++) {
          const int slice = b * kBatch + s;
          const uint64_t from = x + slice / 4 * (ROWS * 128 >> 4) + slice % 4 * 2;
          if (slice % kGroup == 0) {
            Wgmma<ROWS>::template run<false>(d, a[s], from);
          } else {
            Wgmma<ROWS>::run(d, a[s], from);
          }
        }
        wgmma_commit();
        // Beside the products: the group's scales, the next batch's words.
        float scale[2];
        if (ends) {
#pragma unroll
          for (int half = 0; half < 2; half++) {
            const uint16_t bits = load_shared_2(header_of(stage, b) + lane / 4 * 16 + half * 8 + warp * 2);
            scale[half] = task.bfloat16_scales ? __uint_as_float(static_cast<uint32_t>(bits) << 16)
                                               : __half2float(__ushort_as_half(bits));
            if (kGroup < kSlices && b * kBatch / kGroup * kGroup >= n) scale[half] = 0;  // stale; the products are zero
          }
        }
        if (!within) barrier_wait(places.full(own_part, next_slot), next_phase);
        load_words(within ? stage : places.weights(own_part, own_block, next_slot), (b + 1) % kBatches);
        wgmma_wait<0>();
        pin_registers(d);
        if (!within) release(slot);
        if (ends) {
#pragma unroll
          for (int e = 0; e < ROWS / 2; e++) sums[e] = fmaf(scale[e / 2 % 2], d[e], sums[e]);
        }
      }
      if (at.turn_ends(task)) {
        end_turn(first_turn);
        first_turn = false;
      }
      at = next;
      slot = next_slot;
      phase = next_phase;
    }

    if constexpr (PARTS == 1) {  // a whole row block: its own thread's sums
      constexpr int kAtOnce = 4;
      // Once an item: instructions that are not near cost more than a loop. (Of 128 rows unrolled, gate and up of an 8B
      // took 75 us in place of 67.)
      constexpr int kUnrolled = ROWS == 128 ? 1 : kTiles / kAtOnce;
#pragma unroll kUnrolled
      for (int first = 0; first < kTiles; first += kAtOnce) {
        float before[kAtOnce][4];
        const auto place = [&](int u) -> Output {
          return {first_block + own_block, row_begin + (first + u) * 8 + lane % 4 * 2, warp, lane / 4};
        };
#pragma unroll
        for (int u = 0; u < kAtOnce; u++) load_before(place(u), before[u]);
#pragma unroll
        for (int u = 0; u < kAtOnce; u++) {
          const uint4 v = load_shared_16(totals + (first + u) * 2048);
          put(place(u), {__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z), __uint_as_float(v.w)},
              before[u]);
        }
      }
    } else {
      if (kInRegisters || of.count == 0) {
#pragma unroll
        for (int tile = 0; tile < kTiles; tile++) {
          if constexpr (kInRegisters) {
            store_shared_16(totals + tile * 2048,
                            {__float_as_uint(turns[4 * tile]), __float_as_uint(turns[4 * tile + 1]),
                             __float_as_uint(turns[4 * tile + 2]), __float_as_uint(turns[4 * tile + 3])});
          } else {
            store_shared_16(totals + tile * 2048, {});
          }
        }
      }
      if (part_blocks > 1) {
        cluster_arrive();
      } else {
        barrier_of_threads<1, kConsumers>();
      }
      constexpr int kOutputs = BLOCKS * kTiles * 128;  // of four numbers
      constexpr int kAtOnce = kTiles < kWideParts ? 1 : kTiles / kWideParts;
      const int share = kOutputs / part_blocks, parts_of_rank = parts / task.splits;
#pragma unroll 1
      for (int first = thread; first < share; first += kAtOnce * kConsumers) {
        const auto index = [&](int u) { return rank * share + first + u * kConsumers; };
        const auto place = [&](int u) -> Output {
          const int s = index(u);
          return {first_block + s / (128 * kTiles), row_begin + s / 128 % kTiles * 8 + s % 4 * 2, s / 32 % 4,
                  s % 32 / 4};
        };
        float v[kAtOnce][4] = {}, of_rank[kAtOnce][4] = {}, before[kAtOnce][4];
#pragma unroll
        for (int u = 0; u < kAtOnce; u++) load_before(place(u), before[u]);
        if (part_blocks > 1 && first == thread) cluster_wait();
#pragma unroll 1
        for (int p = 0, left = parts_of_rank; p < parts; p++) {
#pragma unroll
          for (int u = 0; u < kAtOnce; u++) {
            const uint32_t from = places.totals() + p % PARTS * BLOCKS * W::kGroupTotals + index(u) * 16;
            const uint4 sum = part_blocks > 1 ? load_cluster_16(p / PARTS, from) : load_shared_16(from);
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
      if (part_blocks > 1) {  // nobody's shared memory goes while others read it
        if (thread >= share) cluster_wait();
        cluster_arrive();
        cluster_wait();
      } else {
        barrier_of_threads<1, kConsumers>();
      }
    }
  }
}

template <int GROUP_SLICES, bool ZEROS, int BLOCKS, int PARTS, int ROWS>
struct Launcher {
  static constexpr auto* kKernel = linear_decode_wide_kernel<GROUP_SLICES, ZEROS, BLOCKS, PARTS, ROWS>;

  static bool takes(const DecodePlan& plan) {
    return plan.blocks == BLOCKS && plan.block_parts == PARTS && plan.tile_rows == ROWS;
  }
  static cudaError_t prepare() { return allow_shared_memory(reinterpret_cast<const void*>(kKernel), 0, true); }
  static cudaError_t launch(const DecodeTask& task, const DecodePlan& plan, cudaStream_t stream, bool programmatic) {
    CUtensorMap x_map;
    if (const cudaError_t status = encode_rows(&x_map, task.x, task.rows, task.k, task.x_stride, ROWS);
        status != cudaSuccess) {
      return status;
    }
    return launch_planned(plan.launch, kKernel, stream, programmatic, task, x_map, plan.parts);
  }
};

// Calls `call` with each shape's launcher, until it says that it is done.
template <int GROUP_SLICES, bool ZEROS, class Call>
bool each_shape(const Call& call) {
  return call(Launcher<GROUP_SLICES, ZEROS, 4, 1, 32>{}) || call(Launcher<GROUP_SLICES, ZEROS, 4, 1, 64>{}) ||
         call(Launcher<GROUP_SLICES, ZEROS, 2, 1, 128>{}) || call(Launcher<GROUP_SLICES, ZEROS, 1, 2, 64>{}) ||
         call(Launcher<GROUP_SLICES, ZEROS, 2, 2, 64>{}) || call(Launcher<GROUP_SLICES, ZEROS, 1, 2, 128>{});
}

template <int GROUP_SLICES, bool ZEROS>
cudaError_t launch_shape(const DecodeTask& task, const DecodePlan& plan, cudaStream_t stream, bool programmatic) {
  cudaError_t status = cudaErrorInvalidConfiguration;
  each_shape<GROUP_SLICES, ZEROS>([&](auto launcher) {
    if (!launcher.takes(plan)) return false;
    status = launcher.launch(task, plan, stream, programmatic);
    return true;
  });
  return status;
}

template <bool ZEROS>
cudaError_t launch_group(const DecodeTask& task, const DecodePlan& plan, cudaStream_t stream, bool programmatic) {
  switch (task.group_slices) {
    case 2:
      return launch_shape<2, ZEROS>(task, plan, stream, programmatic);
    case 4:
      return launch_shape<4, ZEROS>(task, plan, stream, programmatic);
    case 8:
      return launch_shape<8, ZEROS>(task, plan, stream, programmatic);
    default:
      return launch_shape<0, ZEROS>(task, plan, stream, programmatic);
  }
}

template <int GROUP_SLICES, bool ZEROS>
cudaError_t prepare_shapes() {
  cudaError_t status = cudaSuccess;
  each_shape<GROUP_SLICES, ZEROS>([&](auto launcher) {
    status = launcher.prepare();
    return status != cudaSuccess;
  });
  return status;
}

}  // namespace

cudaError_t launch_decode_wide(const DecodeTask& task, bool zeros, const DecodePlan& plan, cudaStream_t stream,
                               bool programmatic) {
  return zeros ? launch_group<true>(task, plan, stream, programmatic)
               : launch_group<false>(task, plan, stream, programmatic);
}

cudaError_t prepare_decode_wide() {
  for (cudaError_t (*prepare)() :
       {prepare_shapes<0, false>, prepare_shapes<2, false>, prepare_shapes<4, false>, prepare_shapes<8, false>,
        prepare_shapes<0, true>, prepare_shapes<2, true>, prepare_shapes<4, true>, prepare_shapes<8, true>}) {
    if (const cudaError_t status = prepare(); status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

}  // namespace millrace::cuda
