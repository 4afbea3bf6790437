// The prefill linear on Hopper's warpgroup products (wgmma). A block has three warpgroups and computes tiles of 256
// output features (four slab row blocks) by ROWS activation rows, one after the other:
//
//   warpgroup 0   one warp feeds a ring of stages: x by the tensor copy engine (64 input features, swizzled), the
//                 weights as they lie in the slab, by one bulk copy a row block: 4 tiles with their group headers
//   1 and 2       128 features each. Warp w takes from row block w / 2 of its two the words j = 2 (w % 2) and the next,
//                 dequantises them to the A operand in registers, and multiplies with the stage's x (B): two products
//                 of 64 x ROWS x 16 a tile. While one warpgroup rescales its sums at a group's edge or writes its
//                 outputs, the other keeps the tensor cores busy.
//
// The order of sums is that of the stored input features, and does not depend on ROWS.
#include "cuda/common_sm90.cuh"
#include "cuda/linear_prefill.cuh"

namespace millrace::cuda {
namespace {

constexpr int kThreads = kWgmmaThreads;
constexpr int kBlocks = kWgmmaBlocks;
constexpr int kFeatures = kBlocks * kTileN;  // a block's tile
constexpr int kStageSlices = kWgmmaSlices;
constexpr int kBlockBytes = kWgmmaBlockBytes;
constexpr int kStages = kWgmmaStages;
constexpr int kBuffers = 2;  // A operands in flight; 4 are no faster
constexpr int kPassRows = kWgmmaPassRows;
constexpr int kPassStride = kWgmmaPassStride;
constexpr int kPassBytes = kWgmmaPassBytes;

template <int ROWS>
struct Shared {
  static constexpr WgmmaShape kShape{ROWS};
  static constexpr int kXBytes = kShape.x_bytes();
  static constexpr int kWeights = kShape.weights_at();
  static constexpr int kPasses = kShape.passes_at();
  static constexpr int kBarriers = kShape.barriers_at();
};

struct Ring {
  int stage = 0;
  uint32_t phase = 0;
  __device__ __forceinline__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      phase ^= 1;
    }
  }
};

// FINE: groups may begin at any tile; otherwise only where a stage does.
template <int ROWS, bool FINE>
__global__ void __launch_bounds__(kThreads, 1)
    prefill_wgmma(const __grid_constant__ PrefillTask task, const __grid_constant__ CUtensorMap x_map) {
  using Layout = Shared<ROWS>;
  extern __shared__ uint8_t shared_raw[];
  uint8_t* shared = shared_raw + (1024 - shared_address(shared_raw) % 1024) % 1024;
  const uint32_t base = shared_address(shared);
  const auto full = [&](int stage) { return base + Layout::kBarriers + stage * 8; };
  const auto empty = [&](int stage) { return base + Layout::kBarriers + (kStages + stage) * 8; };

  const int thread = static_cast<int>(threadIdx.x), warpgroup = thread / 128, lane = thread % 32;
  if (thread == 0) {
    for (int s = 0; s < kStages; s++) {
      barrier_init(full(s), 1);
      barrier_init(empty(s), 256);  // every thread for its own reads
    }
    barrier_init_fence();
  }
  __syncthreads();

  const int row_tiles = (task.rows + ROWS - 1) / ROWS;
  const int tiles = row_tiles * ((task.n_blocks + kBlocks - 1) / kBlocks);
  const int stages = (task.slices + kStageSlices - 1) / kStageSlices;

  if (warpgroup == 0) {
    give_registers<40>();
    if (thread >= 32) return;
    if (lane == 0) prefetch_tensor_map(&x_map);
    if (!task.early) wait_for_predecessor();
    const std::byte* matrix = task.units[task.unit] + task.matrix_offset;

    // The warp's lane b copies the tile's row block b. Stages follow one another in the slab, so a pointer moves on; no
    // division here: one thread's latency would hold up both consumers.
    const std::byte* from = nullptr;
    int blocks = 0, slices_left = 0, group_left = 0;
    const auto start_tile = [&](int tile) {
      const int first_block = tile / row_tiles * kBlocks;
      blocks = min(kBlocks, task.n_blocks - first_block);
      from = matrix + static_cast<size_t>(first_block + lane) * task.row_block_bytes;
      slices_left = task.slices;
      group_left = 0;
    };
    const auto copy_weights = [&](int slot) {
      int slices = min(kStageSlices, slices_left), bytes = slices * static_cast<int>(kQ4TileBytes);
      slices_left -= slices;
      do {
        if (group_left == 0) {
          bytes += task.header_bytes;
          group_left = task.group_slices;
        }
        const int taken = FINE ? min(slices, group_left) : slices;
        slices -= taken;
        group_left -= taken;
      } while (FINE && slices > 0);
      if (lane == 0) barrier_arrive_expect(full(slot), static_cast<uint32_t>(blocks * bytes + Layout::kXBytes));
      __syncwarp();
      if (lane < blocks) {
        bulk_copy(base + Layout::kWeights + (slot * kBlocks + lane) * kBlockBytes, from, static_cast<uint32_t>(bytes),
                  full(slot));
      }
      from += bytes;
    };
    const auto copy_x = [&](int first_row, int stage, int slot) {
      if (lane == 0) {
        bulk_copy_tensor(base + slot * Layout::kXBytes, &x_map, stage * kStageSlices * kTileK, first_row, full(slot));
      }
    };

    // What `add` adds to, into the L2 before the epilogue wants it.
    const auto prefetch_outputs = [&](int tile) {
      const int first_feature = tile / row_tiles * kFeatures, first_row = tile % row_tiles * ROWS;
      const int features = min(kFeatures, task.n - first_feature);
      const int rows = min(ROWS, task.rows - first_row), column = lane % 8 * 32;
      if (column >= features) return;
      const float* y = task.y + static_cast<size_t>(first_row + lane / 8) * task.y_stride + first_feature + column;
      for (int row = lane / 8; row < rows; row += 4, y += 4 * static_cast<size_t>(task.y_stride)) prefetch_l2(y);
    };

    // The first stages' weights may come before what the predecessor writes.
    const int ahead = min(kStages, stages);
    start_tile(static_cast<int>(blockIdx.x));
    for (int s = 0; s < ahead; s++) copy_weights(s);
    if (task.early) wait_for_predecessor();
    for (int s = 0; s < ahead; s++) copy_x(static_cast<int>(blockIdx.x) % row_tiles * ROWS, s, s);

    Ring ring;
    for (int s = 0; s < ahead; s++) ring.advance();
    int begin = ahead;
    for (int tile = static_cast<int>(blockIdx.x); tile < tiles; tile += static_cast<int>(gridDim.x)) {
      if (begin == 0) start_tile(tile);
      const int first_row = tile % row_tiles * ROWS;
      for (int s = begin; s < stages; s++, ring.advance()) {
        if (s == max(begin, stages - 16) && task.epilogue == LinearEpilogue::add) prefetch_outputs(tile);
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
  const uint8_t* own_weights = shared + Layout::kWeights + own_block * kBlockBytes;
  float* pass = reinterpret_cast<float*>(shared + Layout::kPasses + (consumer * 4 + warp) * kPassBytes);

  Ring ring;
  for (int tile = static_cast<int>(blockIdx.x); tile < tiles; tile += static_cast<int>(gridDim.x)) {
    float sums[2][ROWS / 2];
#pragma unroll
    for (int f = 0; f < 2; f++) {
#pragma unroll
      for (int i = 0; i < ROWS / 2; i++) sums[f][i] = 0.0f;
    }
    float unit[2][2] = {{1, 1}, {1, 1}};  // of (f, h): output feature 16 f + 8 h + lane / 4 of the warp's 32
    float ratio[2][2];
    RowCode codes[2][2];
    int group_left = 0;

    const auto read_group = [&](const uint8_t* header) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int index = 8 * (lane / 4) + 4 * h + 2 * (warp % 2);
        const uint32_t scales = *reinterpret_cast<const uint32_t*>(header + 2 * index);
        const uint32_t zeros = task.zeros ? *reinterpret_cast<const uint16_t*>(header + 128 + index) : 0x0808;
#pragma unroll
        for (int f = 0; f < 2; f++) {
          bool live;
          const float now =
              unit_of_scale(scale_of(static_cast<uint16_t>(scales >> (16 * f)), task.bfloat16_scales), live);
          codes[f][h] = row_code(h == 1, static_cast<int>(zeros >> (8 * f) & 0xff), live);
          ratio[f][h] = __fdividef(unit[f][h], now);
          unit[f][h] = now;
        }
      }
      group_left = task.group_slices;
    };
    const auto rescale = [&] {
      wgmma_wait<0>();
#pragma unroll
      for (int f = 0; f < 2; f++) {
        pin_registers(sums[f]);
#pragma unroll
        for (int i = 0; i < ROWS / 2; i++) sums[f][i] *= ratio[f][i / 2 % 2];
      }
    };

    int previous = -1;
    uint32_t a[kBuffers][2][4];
    for (int s = 0; s < stages; s++, ring.advance()) {
      barrier_wait(full(ring.stage), ring.phase);
      const uint8_t* weights = own_weights + ring.stage * (kBlocks * kBlockBytes);
      const uint64_t x = swizzled_matrix(base + ring.stage * Layout::kXBytes);
      uint2 words[kStageSlices];  // past the last tile stale ones, where x is zero
      bool edge = group_left == 0;
      if constexpr (!FINE) {
        if (edge) {
          read_group(weights);
          weights += task.header_bytes;
        }
        group_left -= kStageSlices;
#pragma unroll
        for (int k = 0; k < kStageSlices; k++) {
          words[k] = *reinterpret_cast<const uint2*>(weights + k * kQ4TileBytes + lane * 16 + warp % 2 * 8);
        }
      }
#pragma unroll
      for (int k = 0; k < kStageSlices; k++) {
        if constexpr (FINE) {
          edge = group_left == 0 && s * kStageSlices + k < task.slices;
          if (edge) {
            read_group(weights);
            weights += task.header_bytes;
          }
          group_left--;
          words[k] = *reinterpret_cast<const uint2*>(weights + lane * 16 + warp % 2 * 8);
          weights += kQ4TileBytes;
        }
        // (Rescaling one product's sums under the other would be better still; ptxas then serialises all products.)
        if ((FINE || k == 0) && edge) rescale();
#pragma unroll
        for (int f = 0; f < 2; f++) {
          dequantise(f == 0 ? words[k].x : words[k].y, codes[f][0], codes[f][1], a[k % kBuffers][f]);
        }
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

    // Outputs: fragments turn around through shared memory, a warp for itself, so that rows are written contiguously.
    const int first_row = tile % row_tiles * ROWS;
    const int first_feature = (tile / row_tiles * kBlocks + own_block) * kTileN + warp % 2 * 32;
    const auto value = [&](int f, int c, int h, int i) { return sums[f][4 * c + 2 * h + i] * unit[f][h]; };
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
        if (add && whole && row < ROWS && first_row + row < task.rows) {
          const size_t at = static_cast<size_t>(first_row + row) * task.y_stride + column;
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
                  silu_times(value(f, c, 0, i), value(f, c, 1, i));
            }
          }
        }
        __syncwarp();
        const int row = lane / 2, out = first_feature / 2 + lane % 2 * 8;
        if (row >= pass_rows || first_row + c0 * 8 + row >= task.rows) continue;
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
          if (4 * r >= pass_rows || first_row + c0 * 8 + row >= task.rows) continue;
          float4 v = *reinterpret_cast<const float4*>(pass + row * kPassStride + lane % 8 * 4);
          float* to = task.y + static_cast<size_t>(first_row + c0 * 8 + row) * task.y_stride + column;
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
}

template <int ROWS, bool FINE>
cudaError_t start(const PrefillTask& task, const PrefillPlan& plan, cudaStream_t stream, bool programmatic) {
  CUtensorMap x_map;
  static_assert(kStageSlices * kTileK == 64);
  if (const cudaError_t status = encode_rows(&x_map, task.x, task.rows, task.k, task.x_stride, ROWS);
      status != cudaSuccess) {
    return status;
  }
  const auto kernel = prefill_wgmma<ROWS, FINE>;
  static OncePerDevice prepared;
  const cudaError_t status =
      prepared.run([&] { return allow_shared_memory(reinterpret_cast<const void*>(kernel), 0, false); });
  return status != cudaSuccess ? status : launch_planned(plan.launch, kernel, stream, programmatic, task, x_map);
}

template <int ROWS>
cudaError_t start_rows(const PrefillTask& task, const PrefillPlan& plan, cudaStream_t stream, bool programmatic) {
  return plan.fine ? start<ROWS, true>(task, plan, stream, programmatic)
                   : start<ROWS, false>(task, plan, stream, programmatic);
}

}  // namespace

// libcuda is not linked: the runtime knows where it is.
EncodeTiled encode_tiled() {
  static const EncodeTiled function = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result{};
#if CUDART_VERSION >= 12050
    const cudaError_t status =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
#else
    const cudaError_t status = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &found, cudaEnableDefault, &result);
#endif
    return status == cudaSuccess && result == cudaDriverEntryPointSuccess ? reinterpret_cast<EncodeTiled>(found)
                                                                          : nullptr;
  }();
  return function;
}

bool sm90_kernels() {
  return encode_tiled() != nullptr;
}

cudaError_t linear_prefill_sm90(const PrefillTask& task, const PrefillPlan& plan, cudaStream_t stream,
                                bool programmatic) {
  switch (plan.rows) {
    case 64:
      return start_rows<64>(task, plan, stream, programmatic);
    case 120:
      return start_rows<120>(task, plan, stream, programmatic);
    case 128:
      return start_rows<128>(task, plan, stream, programmatic);
  }
  return cudaErrorInvalidConfiguration;
}

}  // namespace millrace::cuda
