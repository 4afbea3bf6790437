#pragma once
// The prefill linear on Hopper's warpgroup products (wgmma). A block has three warpgroups and computes tiles of 256
// output features (four slab row blocks) by ROWS activation rows, one after the other:
//
//   warpgroup 0   one warp feeds a ring of stages: x by the tensor copy engine (64 input features, swizzled), the
//                 weights as they lie in the slab, by one bulk copy a row block: 4 tiles with what stands before them
//   1 and 2       128 features each. Warp w takes from row block w / 2 of its two the words j = 2 (w % 2) and the next,
//                 dequantises them to the A operand in registers, and multiplies with the stage's x (B): two products
//                 of 64 x ROWS x 16 a tile. While one warpgroup rescales its sums at a group's edge or writes its
//                 outputs, the other keeps the tensor cores busy.
//
// Of a mixture (EXPERTS) the tiles are those of its list: x has the rows of each expert side by side, and a tile has
// rows of one expert. Tiles of the same rows follow one another, so that x comes from the L2.
//
// The order of sums is that of the stored input features, and does not depend on ROWS. A Source is a code's way from
// shared memory to registers: Q4Source (linear_prefill_sm90.cu), CodeSource (linear_prefill_codes_sm90.cuh).
#include "cuda/common_sm90.cuh"
#include "cuda/linear_prefill.cuh"
#include "cuda/moe/activation.cuh"

namespace millrace::cuda {

template <int STAGES>
struct WgmmaRing {
  int stage = 0;
  uint32_t phase = 0;
  __device__ __forceinline__ void advance() {
    if (++stage == STAGES) {
      stage = 0;
      phase ^= 1;
    }
  }
};

// Where a tile's rows end, whose outputs they are, and what becomes of gate and up.
template <bool EXPERTS>
struct PrefillRows {
  const PrefillTask& task;
  int end;

  __device__ __forceinline__ size_t of(int row) const {
    if constexpr (EXPERTS) return static_cast<size_t>(task.experts.places[row]);
    return static_cast<size_t>(row);
  }
  __device__ __forceinline__ __half activation(float gate, float up) const {
    if constexpr (EXPERTS) {
      const PrefillExperts& experts = task.experts;
      if (experts.clamped) return bounded_half(clamped_swiglu(gate, up, experts.alpha, experts.limit));
    }
    return silu_times(gate, up);
  }
};

// A warp's 32 features from first_feature on by ROWS rows from first_row on: value(f, c, h, i) is that of feature
// 16 f + 8 h + lane / 4 and row 8 c + 2 (lane % 4) + i. Fragments turn around through shared memory (`pass`), a warp
// for itself, so that rows are written contiguously.
template <int ROWS, class Rows, class Value>
__device__ __forceinline__ void store_outputs(const PrefillTask& task, const Rows& rows, float* pass, int first_row,
                                              int first_feature, int lane, const Value& value) {
  constexpr int kPassRows = kWgmmaPassRows, kPassStride = kWgmmaPassStride;
  const bool silu = task.epilogue == LinearEpilogue::silu_mul;
  const bool aligned = silu ? reinterpret_cast<uintptr_t>(task.act) % 16 == 0 && task.act_stride % 8 == 0
                            : reinterpret_cast<uintptr_t>(task.y) % 16 == 0 && task.y_stride % 4 == 0;
  const bool add = task.epilogue == LinearEpilogue::add;
  const int column = first_feature + lane % 8 * 4;
  const bool whole = aligned && column + 4 <= task.n;
  float4 before[2][4];
  const auto load_before = [&](int c0, float4(&to)[4]) {
#pragma unroll
    for (int r = 0; r < 4; r++) {
      const int row = c0 * 8 + 4 * r + lane / 8;
      to[r] = {0, 0, 0, 0};
      if (add && whole && row < ROWS && first_row + row < rows.end) {
        const size_t at = rows.of(first_row + row) * task.y_stride + column;
        to[r] = *reinterpret_cast<const float4*>(task.y + at);
      }
    }
  };
  if (!silu) load_before(0, before[0]);
#pragma unroll
  for (int c0 = 0; c0 < ROWS / 8; c0 += 2) {
    const int pass_rows = min(ROWS - c0 * 8, kPassRows);
    __syncwarp();
    if (silu) {
      auto* halves = reinterpret_cast<__half*>(pass);
#pragma unroll
      for (int c = c0; c < min(c0 + 2, ROWS / 8); c++) {
#pragma unroll
        for (int f = 0; f < 2; f++) {
#pragma unroll
          for (int i = 0; i < 2; i++) {
            halves[((c - c0) * 8 + lane % 4 * 2 + i) * (2 * kPassStride) + 8 * f + lane / 4] =
                rows.activation(value(f, c, 0, i), value(f, c, 1, i));
          }
        }
      }
      __syncwarp();
      const int row = lane / 2, out = first_feature / 2 + lane % 2 * 8;
      if (row >= pass_rows || first_row + c0 * 8 + row >= rows.end) continue;
      const __half* from = halves + row * (2 * kPassStride) + lane % 2 * 8;
      __half* to = task.act + static_cast<size_t>(first_row + c0 * 8 + row) * task.act_stride + out;
      const int limit = min(task.intermediate, task.n / 2);
      if (aligned && out + 8 <= limit) {
        *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
      } else {
        for (int e = 0; e < 8; e++) {
          if (out + e < limit) to[e] = from[e];
        }
      }
    } else {
      if (c0 + 2 < ROWS / 8) load_before(c0 + 2, before[(c0 / 2 + 1) % 2]);
#pragma unroll
      for (int c = c0; c < min(c0 + 2, ROWS / 8); c++) {
#pragma unroll
        for (int f = 0; f < 2; f++) {
#pragma unroll
          for (int e = 0; e < 4; e++) {
            pass[((c - c0) * 8 + lane % 4 * 2 + e % 2) * kPassStride + 16 * f + 8 * (e / 2) + lane / 4] =
                value(f, c, e / 2, e % 2);
          }
        }
      }
      __syncwarp();
#pragma unroll
      for (int r = 0; r < kPassRows / 4; r++) {
        const int row = 4 * r + lane / 8;
        if (4 * r >= pass_rows || first_row + c0 * 8 + row >= rows.end) continue;
        float4 v = *reinterpret_cast<const float4*>(pass + row * kPassStride + lane % 8 * 4);
        float* to = task.y + rows.of(first_row + c0 * 8 + row) * task.y_stride + column;
        if (whole) {
          if (add) {
            const float4 y = before[c0 / 2 % 2][r];
            v.x += y.x, v.y += y.y, v.z += y.z, v.w += y.w;
          }
          *reinterpret_cast<float4*>(to) = v;
        } else {
          const float each[4] = {v.x, v.y, v.z, v.w};
          for (int e = 0; e < 4; e++) {
            if (column + e < task.n) to[e] = add ? to[e] + each[e] : each[e];
          }
        }
      }
    }
  }
}

// A Source has:
//   kBlockBytes, kStages    as in its WgmmaShape
//   Feed                    start(task) at a tile's begin; next(task): bytes of a row block's next stage
//   Source(task, half, lane) at a tile's begin: of the warp's 32 features, the half `half` of a row block
//   stage(weights, s)       stage s, in shared memory at `weights`; then for each of its slices
//   slice(k)                whether sums are to be multiplied by ratio[f][h] first, where kRescales (kAnySlice: not
//   only
//                           at a stage's begin)
//   registers(k, f, a)      the A operand of features 16 f + lane / 4 and + 8
//   unit(f, h)              what sums are multiplied with in the end
template <class Source, int ROWS, bool EXPERTS>
__global__ void __launch_bounds__(kWgmmaThreads, 1)
    prefill_wgmma(const __grid_constant__ PrefillTask task, const __grid_constant__ CUtensorMap x_map) {
  constexpr WgmmaShape kShape{ROWS, Source::kBlockBytes, Source::kStages};
  constexpr int kFeatures = kWgmmaBlocks * kTileN;  // a block's tile
  constexpr int kBuffers = 2;                       // A operands in flight; 4 are no faster
  extern __shared__ uint8_t shared_raw[];
  uint8_t* shared = shared_raw + (1024 - shared_address(shared_raw) % 1024) % 1024;
  const uint32_t base = shared_address(shared);
  const auto full = [&](int stage) { return base + kShape.barriers_at() + stage * 8; };
  const auto empty = [&](int stage) { return base + kShape.barriers_at() + (Source::kStages + stage) * 8; };

  const int thread = static_cast<int>(threadIdx.x), warpgroup = thread / 128, lane = thread % 32;
  if (thread == 0) {
    for (int s = 0; s < Source::kStages; s++) {
      barrier_init(full(s), 1);
      barrier_init(empty(s), 256);  // every thread for its own reads
    }
    barrier_init_fence();
  }
  __syncthreads();

  const int columns = (task.n_blocks + kWgmmaBlocks - 1) / kWgmmaBlocks;
  const int stages = (task.slices + kWgmmaSlices - 1) / kWgmmaSlices;
  if (EXPERTS) wait_for_predecessor();  // of the list
  const int row_tiles = EXPERTS ? *task.experts.count : (task.rows + ROWS - 1) / ROWS;
  const int tiles = row_tiles * columns;
  const auto column_of = [&](int tile) { return EXPERTS ? tile % columns : tile / row_tiles; };
  const auto row_tile_of = [&](int tile) { return EXPERTS ? tile / columns : tile % row_tiles; };
  const auto first_row_of = [&](int tile) {
    return EXPERTS ? task.experts.tiles[row_tile_of(tile)].y : row_tile_of(tile) * ROWS;
  };
  const auto expert_at = [&](int expert) {
    const PrefillExperts& experts = task.experts;
    if (experts.addresses != nullptr) return experts.addresses[expert];
    return task.units[task.unit] + experts.first + static_cast<size_t>(expert) * experts.stride;
  };
  if (EXPERTS && static_cast<int>(blockIdx.x) >= tiles) return;

  if (warpgroup == 0) {
    give_registers<40>();
    if (thread >= 32) return;
    if (lane == 0) prefetch_tensor_map(&x_map);
    if (!EXPERTS && !task.early) wait_for_predecessor();
    const std::byte* matrix = EXPERTS ? nullptr : task.units[task.unit] + task.matrix_offset;

    // The warp's lane b copies the tile's row block b. Stages follow one another in the slab, so a pointer moves on; no
    // division here: one thread's latency would hold up both consumers.
    const std::byte* from = nullptr;
    int blocks = 0;
    typename Source::Feed feed;
    const auto start_tile = [&](int tile) {
      const int first_block = column_of(tile) * kWgmmaBlocks;
      if constexpr (EXPERTS) matrix = expert_at(task.experts.tiles[row_tile_of(tile)].x) + task.matrix_offset;
      blocks = min(kWgmmaBlocks, task.n_blocks - first_block);
      from = matrix + static_cast<size_t>(first_block + lane) * task.row_block_bytes;
      feed.start(task);
    };
    const auto copy_weights = [&](int slot) {
      const int bytes = feed.next(task);
      if (lane == 0) barrier_arrive_expect(full(slot), static_cast<uint32_t>(blocks * bytes + kShape.x_bytes()));
      __syncwarp();
      if (lane < blocks) {
        bulk_copy(base + kShape.weights_at() + (slot * kWgmmaBlocks + lane) * Source::kBlockBytes, from,
                  static_cast<uint32_t>(bytes), full(slot));
      }
      from += bytes;
    };
    const auto copy_x = [&](int first_row, int stage, int slot) {
      if (lane == 0) {
        bulk_copy_tensor(base + slot * kShape.x_bytes(), &x_map, stage * kWgmmaSlices * kTileK, first_row, full(slot));
      }
    };

    // What `add` adds to, into the L2 before the epilogue wants it.
    const auto prefetch_outputs = [&](int tile) {
      const int first_feature = column_of(tile) * kFeatures, first_row = first_row_of(tile);
      const int features = min(kFeatures, task.n - first_feature);
      const int rows = min(ROWS, task.rows - first_row), column = lane % 8 * 32;
      if (column >= features) return;
      const float* y = task.y + static_cast<size_t>(first_row + lane / 8) * task.y_stride + first_feature + column;
      for (int row = lane / 8; row < rows; row += 4, y += 4 * static_cast<size_t>(task.y_stride)) prefetch_l2(y);
    };

    // The first stages' weights may come before what the predecessor writes.
    const int ahead = min(Source::kStages, stages);
    start_tile(static_cast<int>(blockIdx.x));
    for (int s = 0; s < ahead; s++) copy_weights(s);
    if (!EXPERTS && task.early) wait_for_predecessor();
    for (int s = 0; s < ahead; s++) copy_x(first_row_of(static_cast<int>(blockIdx.x)), s, s);

    WgmmaRing<Source::kStages> ring;
    for (int s = 0; s < ahead; s++) ring.advance();
    int begin = ahead;
    for (int tile = static_cast<int>(blockIdx.x); tile < tiles; tile += static_cast<int>(gridDim.x)) {
      if (begin == 0) start_tile(tile);
      const int first_row = first_row_of(tile);
      for (int s = begin; s < stages; s++, ring.advance()) {
        if (!EXPERTS && s == max(begin, stages - 16) && task.epilogue == LinearEpilogue::add) prefetch_outputs(tile);
        barrier_wait(empty(ring.stage), ring.phase ^ 1);
        copy_weights(ring.stage);
        copy_x(first_row, s, ring.stage);
      }
      begin = 0;
    }
    return;
  }

  take_registers<232>();
  wait_for_predecessor();
  const int consumer = warpgroup - 1, warp = thread % 128 / 32;
  const int own_block = 2 * consumer + warp / 2;  // within the tile
  const uint32_t own_weights = base + kShape.weights_at() + own_block * Source::kBlockBytes;
  float* pass = reinterpret_cast<float*>(shared + kShape.passes_at() + (consumer * 4 + warp) * kWgmmaPassBytes);

  WgmmaRing<Source::kStages> ring;
  for (int tile = static_cast<int>(blockIdx.x); tile < tiles; tile += static_cast<int>(gridDim.x)) {
    float sums[2][ROWS / 2];
#pragma unroll
    for (int f = 0; f < 2; f++) {
#pragma unroll
      for (int i = 0; i < ROWS / 2; i++) sums[f][i] = 0.0f;
    }
    Source source(task, warp % 2, lane);
    const auto rescale = [&] {
      if constexpr (Source::kRescales) {
        wgmma_wait<0>();
#pragma unroll
        for (int f = 0; f < 2; f++) {
          pin_registers(sums[f]);
#pragma unroll
          for (int i = 0; i < ROWS / 2; i++) sums[f][i] *= source.ratio[f][i / 2 % 2];
        }
      }
    };

    int previous = -1;
    uint32_t a[kBuffers][2][4];
    for (int s = 0; s < stages; s++, ring.advance()) {
      barrier_wait(full(ring.stage), ring.phase);
      const uint64_t x = swizzled_matrix(base + ring.stage * kShape.x_bytes());
      source.stage(own_weights + ring.stage * (kWgmmaBlocks * Source::kBlockBytes), s);
#pragma unroll
      for (int k = 0; k < kWgmmaSlices; k++) {
        const bool edge = source.slice(k);
        // (Rescaling one product's sums under the other would be better still; ptxas then serialises all products.)
        if ((Source::kAnySlice || k == 0) && edge) rescale();
#pragma unroll
        for (int f = 0; f < 2; f++) source.registers(k, f, a[k % kBuffers][f]);
        wgmma_fence();
#pragma unroll
        for (int f = 0; f < 2; f++) Wgmma<ROWS>::run(sums[f], a[k % kBuffers][f], x + 2 * k);
        wgmma_commit();
        wgmma_wait<kBuffers - 1>();
        pin_registers(a[(k + 1) % kBuffers][0]);
        pin_registers(a[(k + 1) % kBuffers][1]);
        if (k == kBuffers - 2 && previous >= 0) barrier_arrive(empty(previous));
      }
      previous = ring.stage;
    }
    wgmma_wait<0>();
#pragma unroll
    for (int f = 0; f < 2; f++) pin_registers(sums[f]);
    barrier_arrive(empty(previous));
    if (tile + static_cast<int>(gridDim.x) >= tiles) allow_successor();

    const int first_row = first_row_of(tile);
    const int first_feature = (column_of(tile) * kWgmmaBlocks + own_block) * kTileN + warp % 2 * 32;
    PrefillRows<EXPERTS> rows{task, task.rows};
    float bias[2][2] = {};
    if constexpr (EXPERTS) {
      const int4 own = task.experts.tiles[row_tile_of(tile)];
      rows.end = own.y + own.z;
      if (task.experts.bias_offset >= 0) {
        const auto* biases = reinterpret_cast<const float*>(expert_at(own.x) + task.experts.bias_offset);
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const int feature = first_feature + 16 * (i / 2) + 8 * (i % 2) + lane / 4;
          if (feature < task.n) bias[i / 2][i % 2] = biases[feature];
        }
      }
    }
    store_outputs<ROWS>(task, rows, pass, first_row, first_feature, lane, [&](int f, int c, int h, int i) {
      const float sum = sums[f][4 * c + 2 * h + i] * source.unit(f, h);
      return EXPERTS ? sum + bias[f][h] : sum;
    });
  }
}

template <class Source, int ROWS>
cudaError_t start_prefill(const PrefillTask& task, const PrefillPlan& plan, cudaStream_t stream, bool programmatic) {
  CUtensorMap x_map;
  static_assert(kWgmmaSlices * kTileK == 64);
  if (const cudaError_t status = encode_rows(&x_map, task.x, task.rows, task.k, task.x_stride, ROWS);
      status != cudaSuccess) {
    return status;
  }
  const auto start = [&](auto kernel, OncePerDevice& prepared) {
    const cudaError_t status =
        prepared.run([&] { return allow_shared_memory(reinterpret_cast<const void*>(kernel), 0, false); });
    return status != cudaSuccess ? status : launch_planned(plan.launch, kernel, stream, programmatic, task, x_map);
  };
  static OncePerDevice prepared, prepared_experts;
  if (task.experts.tiles == nullptr) return start(prefill_wgmma<Source, ROWS, false>, prepared);
  if constexpr (ROWS == 120) return cudaErrorInvalidConfiguration;
  if constexpr (ROWS != 120) return start(prefill_wgmma<Source, ROWS, true>, prepared_experts);
}

}  // namespace millrace::cuda
