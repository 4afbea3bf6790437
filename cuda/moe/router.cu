// norm_and_route: of one or two rows the norm, the router's linear, the choice of experts and their list, in one launch
// of a cluster. Thread block q has 16 of the router's features, four thread blocks a row block:
//
//      weights to registers (early) | every thread block norms the rows | its 16 logits | to thread block 0,
//      which routes a row a warp and lists
//
// The bits are those of norm.cu, linear_decode.cuh and route.cu: the router's sums are made of the same products in the
// same order, a warp here taking the chunks of the same warp there of each of the cluster's thread blocks.
#include "cuda/linear_decode.cuh"
#include "cuda/moe/route.cuh"

namespace millrace::cuda {
namespace {

constexpr int kHeld = 16;  // tiles of 16 features by 16 of a thread, loaded at once

struct RouterTask {
  RouterArguments a;
  RouterPlan plan;
  size_t row_block_bytes;
};

template <WeightType TYPE>
__global__ void __launch_bounds__(kDecodeThreads)
    router_kernel(const __grid_constant__ RouterTask task, const __grid_constant__ ExpertList list) {
  constexpr int kSlices = chunk_slices(TYPE);
  constexpr int kTileBytes = float_tile_bytes(TYPE);
  static_assert(kSlices == 2 && kTileBytes == 2048);
  extern __shared__ __align__(128) std::byte shared[];
  const RouterArguments& a = task.a;
  const RouterPlan& plan = task.plan;
  const RouteArguments& route = a.route;
  const MatrixLayout& m = a.matrix;

  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  const int warp = __shfl_sync(~0u, thread / 32, 0);
  const int own = static_cast<int>(cluster_rank()), blocks = static_cast<int>(gridDim.x);
  const int rows = route.rows, slices = m.k / kTileK, pitch = norm_pitch(slices);
  const uint32_t base = shared_address(shared), barrier = base + plan.barrier_at;
  auto* sums = reinterpret_cast<float*>(shared + plan.sums_at);      // [8 * splits warps, 16 features, kRouterRows]
  auto* logits = reinterpret_cast<float*>(shared + plan.logits_at);  // [kRouterRows, 128] of thread block 0

  allow_successor();
  if (thread == 0) {
    warp_copy_init(barrier);
    warp_copy_init_fence();
  }
  __syncthreads();
  if (own == 0 && warp == 0) warp_copy_begin(barrier, static_cast<uint32_t>(blocks * rows * 64), lane);
  __syncwarp();
  cluster_arrive_relaxed();  // this thread block runs: its shared memory may be written
  if (!route.weights.early) wait_for_predecessor();

  // ---- The warp's tiles: of each of its parts, one a thread block of linear_decode's cluster, those of its chunks.
  const std::byte* slab = route.weights.units[route.weights.unit];
  const std::byte* tiles =
      slab + m.offset + static_cast<size_t>(own / 4) * task.row_block_bytes + own % 4 * 512 + lane * 16;
  const int each = plan.rounds * kSlices, items = plan.splits * each;
  const auto slice_of = [&](int item) {
    const int part = item >= each ? 1 : 0, within = item - part * each;
    return (part * kDecodeWarps + warp + within / kSlices * plan.step) * kSlices + within % kSlices;
  };
  uint4 held[kHeld];
  const auto load = [&](int first) {
#pragma unroll
    for (int i = 0; i < kHeld; i++) {
      const int slice = first + i < items ? slice_of(first + i) : slices;
      held[i] =
          slice < slices ? *reinterpret_cast<const uint4*>(tiles + static_cast<size_t>(slice) * kTileBytes) : uint4{};
    }
  };
  load(0);

  // ---- The rows, normed, in each thread block.
  {
    NormRows norm(reinterpret_cast<const float*>(slab + a.norm_offset), m.k);
    if (route.weights.early) wait_for_predecessor();
#pragma unroll 1
    for (int row = 0; row < rows; row++) {
      norm.row(a.x + row * a.x_stride, a.epsilon, base + plan.squares_at, base + row * pitch, slices * kTileK);
    }
  }
  __syncthreads();
  for (int row = 0; row < rows; row++) {  // for the experts, a share each
    const uint4* from = reinterpret_cast<const uint4*>(shared + row * pitch);
    auto* to = reinterpret_cast<uint4*>(a.normed + static_cast<size_t>(row) * a.normed_stride);
    for (int i = own * kDecodeThreads + thread; i < m.k / 8; i += blocks * kDecodeThreads) to[i] = from[i];
  }

  // ---- Products. Columns beyond the rows repeat the last row.
  const uint32_t x_first = base + min(lane % 8, rows - 1) * pitch + lane / 8 * 16;
  float d[4] = {};
  uint32_t x[4] = {};
#pragma unroll 1
  for (int first = 0; first < items; first += kHeld) {
    if (first > 0) load(first);
#pragma unroll
    for (int i = 0; i < kHeld; i++) {
      const int item = first + i;
      if (item >= items) break;
      const int slice = slice_of(item), part = item >= each ? 1 : 0;
      const int h = i % kSlices * 2;  // items are whole chunks
      if (h == 0 && slice < slices) load_matrices_at(x, x_first + slice * kTileK * 2);
      if (slice < slices) {
        const uint4& w = held[i];
        if constexpr (TYPE == WeightType::f16) {
          mma_m16n8k16(d, w.x, w.y, w.z, w.w, x[h], x[h + 1]);
        } else {
          const SplitPair low = split_half2(x[h]), high = split_half2(x[h + 1]);
          mma_m16n8k16_bf16(d, w.x, w.y, w.z, w.w, low.low, high.low);
          mma_m16n8k16_bf16(d, w.x, w.y, w.z, w.w, low.high, high.high);
        }
      }
      if (item + 1 == (part + 1) * each) {  // lane (g, t) has of features g and g + 8 rows 2 t and 2 t + 1
        if (lane % 4 == 0) {
          float* to = sums + ((part * kDecodeWarps + warp) * 16 + lane / 4) * kRouterRows;
          to[0] = d[0], to[1] = d[1];
          to[8 * kRouterRows] = d[2], to[8 * kRouterRows + 1] = d[3];
        }
        d[0] = d[1] = d[2] = d[3] = 0;
      }
    }
  }
  __syncthreads();
  cluster_wait();

  // ---- The warps' sums, in order: two features of a row a thread.
  if (thread < 8 * rows) {
    const int row = thread / 8, feature = thread % 8 * 2;
    float out[2];
#pragma unroll
    for (int f = 0; f < 2; f++) {
      float sum = 0;
      for (int part = 0; part < plan.splits; part++) {
        float v = 0, some = 0;
#pragma unroll
        for (int w = 0; w < kDecodeWarps; w++) {
          some += sums[((part * kDecodeWarps + w) * 16 + feature + f) * kRouterRows + row];
          if (((w + 1) & (plan.sum_warps - 1)) == 0) {
            v += some;
            some = 0;
          }
        }
        sum = part == 0 ? v : sum + v;
      }
      out[f] = 0.0f + sum;
      const int n = own * 16 + feature + f;
      if (a.bias_offset >= 0 && n < m.n) out[f] += reinterpret_cast<const float*>(slab + a.bias_offset)[n];
    }
    const uint32_t to = shared_address(logits + row * kRouterBlocks * 16 + own * 16 + feature);
    store_cluster_counted_8(0, to, barrier, make_float2(out[0], out[1]));
  }
  if (own != 0) return;

  // ---- Thread block 0 routes, a row a warp.
  const RouteOp& op = route.op;
  auto* rooms = logits + kRouterRows * kRouterBlocks * 16;
  if (warp < rows) {
    const float* bias = route.bias_offset < 0 ? nullptr : reinterpret_cast<const float*>(slab + route.bias_offset);
    const RouteRoom room(op, rooms + warp * (2 * op.experts + op.groups + op.top_k));
    warp_copy_wait(barrier, 0);
    route_row(route, warp, logits + warp * kRouterBlocks * 16, bias, room, lane);
    if (rows == 1) {
      list_row(lane < op.top_k ? room.chosen[lane] : 0, op.top_k, route.positions[0] >= 0, list, route.log, lane);
      __syncwarp();
      return give_frames(list, lane);
    }
  }
  if (rows == 1) return;
  __syncthreads();
  int* counts = reinterpret_cast<int*>(rooms);
  make_list(route.routes, rows, op.top_k, op.experts, route.positions, list, route.log, counts, counts + op.experts);
}

std::optional<RouterPlan> plan_of(const RouterArguments& a) {
  const DeviceFacts* device = nullptr;
  if (device_facts(&device) != cudaSuccess || a.route.op.top_k > 32 || a.normed_stride % 8 != 0) return std::nullopt;
  return plan_router(*device, a.matrix, a.route.rows, static_cast<int>(route_bytes(a.route.op)));
}

template <WeightType TYPE>
cudaError_t start(const RouterTask& task, const ExpertList& list, cudaStream_t stream, bool programmatic) {
  const auto kernel = router_kernel<TYPE>;
  static OncePerDevice prepared;
  const cudaError_t status =
      prepared.run([&] { return allow_shared_memory(reinterpret_cast<const void*>(kernel), 0, true); });
  if (status != cudaSuccess) return status;
  return launch_planned(task.plan.launch, kernel, stream, programmatic, task, list);
}

}  // namespace

bool routes_itself(const RouterArguments& a) {
  return plan_of(a).has_value();
}

cudaError_t norm_and_route(const RouterArguments& a, const ExpertList& list, cudaStream_t stream, bool programmatic) {
  const auto plan = plan_of(a);
  if (!plan) return cudaErrorInvalidConfiguration;
  const RouterTask task{a, *plan, a.matrix.row_block_bytes()};
  return a.matrix.code.type == WeightType::f16 ? start<WeightType::f16>(task, list, stream, programmatic)
                                               : start<WeightType::bf16>(task, list, stream, programmatic);
}

}  // namespace millrace::cuda
