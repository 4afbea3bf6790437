// The choice of experts, a warp a row, and the list of who chose whom, a thread block.
//
// Scores are taken in float64 and rounded once, as on the CPU (backend/cpu/route.cc), so that devices disagree on a
// choice only where their logits do. The best is sought anew for each rank: a warp has a few scores a lane.
#include <algorithm>
#include <cmath>

#include "cuda/common.cuh"
#include "cuda/moe/experts.h"

namespace millrace::cuda {
namespace {

constexpr unsigned kAll = 0xffffffffu;

struct Best {
  float value = 0;
  int index = -1;
};

// The greater, the first of equals; of what does not compare, the first.
__device__ __forceinline__ Best better(Best a, Best b) {
  if (a.index < 0) return b;
  if (b.index < 0) return a;
  if (b.value > a.value) return b;
  if (a.value > b.value) return a;
  return a.index < b.index ? a : b;
}

// Of what is not taken (-infinity), by a warp.
__device__ Best best_of(const float* values, int count, int lane) {
  Best best;
  for (int i = lane; i < count; i += 32) {
    if (values[i] != -INFINITY) best = better(best, {values[i], i});
  }
  for (int d = 16; d > 0; d /= 2) {
    Best other;
    other.value = __shfl_xor_sync(kAll, best.value, d);
    other.index = __shfl_xor_sync(kAll, best.index, d);
    best = better(best, other);
  }
  return best;
}

__device__ double sum_of(double value) {
  for (int d = 16; d > 0; d /= 2) value += __shfl_xor_sync(kAll, value, d);
  return value;
}

// Experts outside the best groups are not for choice. `groups`: [op.groups] of the warp's own.
__device__ void keep_groups(const RouteOp& op, float* choice, float* groups, int lane) {
  const int size = op.experts / op.groups;
  for (int g = lane; g < op.groups; g += 32) {
    float first = choice[g * size], second = -INFINITY;
    for (int e = g * size + 1; e < (g + 1) * size; e++) {
      const float value = choice[e];
      if (value > first) {
        second = first;
        first = value;
      } else if (value > second) {
        second = value;
      }
    }
    groups[g] = first + second;
  }
  __syncwarp();
  // A group that is kept is marked by NaN, which no comparison chooses again.
  for (int i = 0; i < op.top_groups; i++) {
    Best best;
    for (int g = lane; g < op.groups; g += 32) {
      if (groups[g] == groups[g] && groups[g] != -INFINITY) best = better(best, {groups[g], g});
    }
    for (int d = 16; d > 0; d /= 2) {
      Best other;
      other.value = __shfl_xor_sync(kAll, best.value, d);
      other.index = __shfl_xor_sync(kAll, best.index, d);
      best = better(best, other);
    }
    if (best.index < 0) break;
    if (lane == 0) groups[best.index] = NAN;
    __syncwarp();
  }
  for (int e = lane; e < op.experts; e += 32) {
    if (groups[e / size] == groups[e / size]) choice[e] = -INFINITY;
  }
  __syncwarp();
}

// scores, choice: [op.experts], groups: [op.groups], of the warp's own.
__device__ void route_row(const RouteArguments& a, const float* logits, const float* bias, float* scores, float* choice,
                          float* groups, float* routes, int lane) {
  const RouteOp& op = a.op;
  if (op.score == Score::sigmoid) {
    for (int e = lane; e < op.experts; e += 32) {
      scores[e] = static_cast<float>(1.0 / (1.0 + exp(-static_cast<double>(logits[e]))));
    }
  } else {
    float most = -INFINITY;
    for (int e = lane; e < op.experts; e += 32) most = fmaxf(most, logits[e]);
    for (int d = 16; d > 0; d /= 2) most = fmaxf(most, __shfl_xor_sync(kAll, most, d));
    double sum = 0;
    for (int e = lane; e < op.experts; e += 32) sum += exp(static_cast<double>(logits[e]) - most);
    sum = sum_of(sum);
    for (int e = lane; e < op.experts; e += 32) {
      scores[e] = static_cast<float>(exp(static_cast<double>(logits[e]) - most) / sum);
    }
  }
  for (int e = lane; e < op.experts; e += 32) choice[e] = bias == nullptr ? scores[e] : scores[e] + bias[e];
  __syncwarp();
  if (op.groups > 1) keep_groups(op, choice, groups, lane);
  float sum = 0;
  for (int i = 0; i < op.top_k; i++) {
    int best = best_of(choice, op.experts, lane).index;
    if (best < 0) best = i;  // of logits that were infinite: the weights are no numbers either
    const float weight = scores[best];
    sum += weight;
    __syncwarp();
    if (lane == 0) {
      choice[best] = -INFINITY;
      routes[i] = static_cast<float>(best);
      routes[op.top_k + i] = weight;
    }
    __syncwarp();
  }
  for (int i = lane; i < op.top_k; i += 32) {
    float weight = routes[op.top_k + i];
    if (op.renormalise) weight /= sum;
    routes[op.top_k + i] = weight * op.scale;
  }
}

// By a thread block. counts, begins: [experts] in shared memory.
__device__ void make_list(const float* routes, int rows, int top_k, int experts, const int32_t* positions,
                          const ExpertList& list, int* counts, int* begins) {
  const int threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
  const int places = rows * top_k;
  for (int e = thread; e < experts; e += threads) counts[e] = 0;
  __syncthreads();
  const auto expert_of = [&](int place) {
    const int row = place / top_k;
    return positions[row] < 0 ? -1 : static_cast<int>(routes[row * 2 * top_k + place % top_k]);
  };
  for (int p = thread; p < places; p += threads) {
    const int e = expert_of(p);
    if (e >= 0) atomicAdd(counts + e, 1);
  }
  __syncthreads();
  if (thread < 32) {  // a run of experts a lane; what comes before it, of places and of tiles
    const int each = (experts + 31) / 32, first = min(experts, thread * each), end = min(experts, first + each);
    const int size = list.many_rows;
    const auto many_of = [size](int count) { return (count + size - 1) / size; };
    int own = 0, few = 0, many = 0;
    for (int e = first; e < end; e++) {
      const int count = counts[e];
      own += count;
      if (count > kFewRows) {
        many += many_of(count);
      } else if (count > 0) {
        few++;
      }
    }
    int before = own, few_before = few, many_before = many;
    for (int d = 1; d < 32; d *= 2) {
      const int a = __shfl_up_sync(kAll, before, d), b = __shfl_up_sync(kAll, few_before, d);
      const int c = __shfl_up_sync(kAll, many_before, d);
      if (thread >= d) before += a, few_before += b, many_before += c;
    }
    if (thread == 31) {
      list.counts[0] = few_before;
      list.counts[1] = many_before;
    }
    before -= own, few_before -= few, many_before -= many;
    for (int e = first; e < end; e++) {
      const int count = counts[e];
      begins[e] = before;
      if (count > kFewRows) {
        for (int at = 0; at < count; at += size) {
          list.many[many_before++] = make_int4(e, before + at, min(size, count - at), 0);
        }
      } else if (count > 0) {
        list.few[few_before++] = make_int4(e, before, count, 0);
      }
      before += count;
    }
  }
  __syncthreads();
  for (int p = thread; p < places; p += threads) {
    const int e = expert_of(p);
    if (e >= 0) list.places[atomicAdd(begins + e, 1)] = p;
  }
}

// Shared memory: of each warp scores, choice and groups; with `listed`, counts and begins.
__global__ void route_kernel(const __grid_constant__ RouteArguments a, const __grid_constant__ ExpertList list,
                             bool listed) {
  extern __shared__ float shared[];
  wait_for_predecessor();
  allow_successor();
  const int warps = static_cast<int>(blockDim.x) / 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int of_warp = 2 * a.op.experts + a.op.groups;
  const float* bias =
      a.bias_offset < 0 ? nullptr : reinterpret_cast<const float*>(a.weights.units[a.weights.unit] + a.bias_offset);
  const int row = static_cast<int>(blockIdx.x) * warps + warp;
  if (row < a.rows) {
    float* scores = shared + warp * of_warp;
    route_row(a, a.logits + static_cast<size_t>(row) * a.op.experts, bias, scores, scores + a.op.experts,
              scores + 2 * a.op.experts, a.routes + static_cast<size_t>(row) * 2 * a.op.top_k, lane);
  }
  if (!listed) return;
  __syncthreads();
  int* counts = reinterpret_cast<int*>(shared);
  make_list(a.routes, a.rows, a.op.top_k, a.op.experts, a.positions, list, counts, counts + a.op.experts);
}

__global__ void list_kernel(const float* routes, int rows, int top_k, int experts, const int32_t* positions,
                            const __grid_constant__ ExpertList list) {
  extern __shared__ float shared[];
  wait_for_predecessor();
  allow_successor();
  int* counts = reinterpret_cast<int*>(shared);
  make_list(routes, rows, top_k, experts, positions, list, counts, counts + experts);
}

constexpr int kSharedBytes = 48 << 10;

size_t bytes_of_warp(const RouteOp& op) {
  return (2 * static_cast<size_t>(op.experts) + static_cast<size_t>(op.groups)) * sizeof(float);
}

int routed_warps(const RouteOp& op) {
  return static_cast<int>(std::min<size_t>(kListedRows, kSharedBytes / bytes_of_warp(op)));
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
  return launch(route_kernel, dim3(blocks), dim3(32 * warps), bytes_of_warp(a.op) * warps, stream, programmatic, a,
                list, listed);
}

cudaError_t list_experts(const float* routes, int rows, int top_k, int experts, const int32_t* positions,
                         const ExpertList& list, cudaStream_t stream, bool programmatic) {
  return launch(list_kernel, dim3(1), dim3(1024), 2 * sizeof(int) * experts, stream, programmatic, routes, rows, top_k,
                experts, positions, list);
}

}  // namespace millrace::cuda
