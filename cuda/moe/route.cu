// The choice of experts, a warp a row, and the list of who chose whom, a thread block.
#include <algorithm>

#include "cuda/moe/route.cuh"

namespace millrace::cuda {
namespace {

// Shared memory: of each warp a RouteRoom; with `listed`, counts and begins.
__global__ void route_kernel(const __grid_constant__ RouteArguments a, const __grid_constant__ ExpertList list,
                             bool listed) {
  extern __shared__ float shared[];
  wait_for_predecessor();
  allow_successor();
  const int warps = static_cast<int>(blockDim.x) / 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int of_warp = 2 * a.op.experts + a.op.groups + a.op.top_k;
  const float* bias =
      a.bias_offset < 0 ? nullptr : reinterpret_cast<const float*>(a.weights.units[a.weights.unit] + a.bias_offset);
  const int row = static_cast<int>(blockIdx.x) * warps + warp;
  if (row < a.rows) {
    route_row(a, row, a.logits + static_cast<size_t>(row) * a.op.experts, bias,
              RouteRoom(a.op, shared + warp * of_warp), lane);
  }
  if (!listed) return;
  __syncthreads();
  int* counts = reinterpret_cast<int*>(shared);
  make_list(a.routes, a.rows, a.op.top_k, a.op.experts, a.positions, list, a.log, counts, counts + a.op.experts);
}

__global__ void list_kernel(const float* routes, int rows, int top_k, int experts, const int32_t* positions,
                            const __grid_constant__ ExpertList list, uint16_t* log) {
  extern __shared__ float shared[];
  wait_for_predecessor();
  allow_successor();
  int* counts = reinterpret_cast<int*>(shared);
  make_list(routes, rows, top_k, experts, positions, list, log, counts, counts + experts);
}

// By one thread: of two addresses of one expert the later holds. (A frame that comes into use may be given up at once.)
__global__ void set_experts_kernel(const std::byte** table, uint8_t* in_ram,
                                   const __grid_constant__ ExpertChanges changes) {
  for (int i = 0; i < changes.count; i++) {
    table[changes.entries[i]] = changes.addresses[i];
    in_ram[changes.entries[i]] = changes.in_ram[i];
  }
}

__global__ void offer_kernel(FrameOffers* offers, FrameLog* log, const __grid_constant__ OfferedFrames frames) {
  const uint32_t given = frames.anew ? 0 : offers->given;
  __syncthreads();
  const int i = static_cast<int>(threadIdx.x);
  if (i < frames.count) offers->frames[(given + static_cast<uint32_t>(i)) % FrameOffers::kRing] = frames.frames[i];
  if (i > 0) return;
  offers->given = given + static_cast<uint32_t>(frames.count);
  if (frames.anew) log->taken = 0;
}

constexpr int kSharedBytes = 48 << 10;

int routed_warps(const RouteOp& op) {
  return static_cast<int>(std::min<size_t>(kListedRows, kSharedBytes / route_bytes(op)));
}

}  // namespace

bool lists_itself(const RouteOp& op, int rows) {
  return rows <= routed_warps(op);
}

cudaError_t route(const RouteArguments& a, const ExpertList& list, cudaStream_t stream, bool programmatic) {
  const int most = routed_warps(a.op);
  if (most < 1) return cudaErrorInvalidConfiguration;
  const bool listed = lists_itself(a.op, a.rows);
  // One row's list too has eight warps.
  const int warps = listed ? std::max(std::min(most, 8), a.rows) : std::min(most, 8);
  const int blocks = (a.rows + warps - 1) / warps;
  return launch(route_kernel, dim3(blocks), dim3(32 * warps), route_bytes(a.op) * warps, stream, programmatic, a, list,
                listed);
}

cudaError_t list_experts(const float* routes, int rows, int top_k, int experts, const int32_t* positions,
                         const ExpertList& list, uint16_t* log, cudaStream_t stream, bool programmatic) {
  return launch(list_kernel, dim3(1), dim3(1024), 2 * sizeof(int) * experts, stream, programmatic, routes, rows, top_k,
                experts, positions, list, log);
}

cudaError_t set_experts(const std::byte** table, uint8_t* in_ram, const ExpertChanges& changes, cudaStream_t stream) {
  return launch(set_experts_kernel, dim3(1), dim3(1), 0, stream, false, table, in_ram, changes);
}

cudaError_t offer_frames(FrameOffers* offers, FrameLog* log, const OfferedFrames& frames, cudaStream_t stream) {
  return launch(offer_kernel, dim3(1), dim3(OfferedFrames::kMost), 0, stream, false, offers, log, frames);
}

}  // namespace millrace::cuda
