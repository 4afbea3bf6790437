#pragma once
// The choice of experts by a warp, and the list of who chose whom by a thread block: what the router's launches share
// (route.cu, router.cu).
//
// Scores are taken in float64 and rounded once, as on the CPU (backend/cpu/route.cc), so that devices disagree on a
// choice only where their logits do. The best is sought anew for each rank: a warp has a few scores a lane.
#include <cmath>

#include "cuda/common.cuh"
#include "cuda/moe/route.h"
#include "model/routes.h"

namespace millrace::cuda {

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
__device__ __forceinline__ Best best_of(const float* values, int count, int lane) {
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

__device__ __forceinline__ double sum_of(double value) {
  for (int d = 16; d > 0; d /= 2) value += __shfl_xor_sync(kAll, value, d);
  return value;
}

// Experts outside the best groups are not for choice. `groups`: [op.groups] of the warp's own.
__device__ inline void keep_groups(const RouteOp& op, float* choice, float* groups, int lane) {
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
    groups[g] = op.group_best == 1 ? first : first + second;
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

// The numbers of the op.top_k best of `choice`, in the warp's registers: a bit pattern that orders as the numbers do
// has its greatest by one instruction. False where there is one that does not compare.
constexpr int kChosenAtOnce = 8;  // a lane's
__device__ __forceinline__ bool choose_fast(const float* choice, int experts, int top_k, int lane, int* chosen) {
#if __CUDA_ARCH__ >= 800
  if (experts > 32 * kChosenAtOnce) return false;
  const auto key_of = [](float v) {
    const uint32_t bits = __float_as_uint(v + 0.0f);  // of -0 as of 0
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  };
  const uint32_t taken = key_of(-INFINITY);
  uint32_t keys[kChosenAtOnce];
  bool compare = true;
#pragma unroll
  for (int i = 0; i < kChosenAtOnce; i++) {
    const int e = lane + 32 * i;
    const float v = e < experts ? choice[e] : -INFINITY;
    compare = compare && v == v;
    keys[i] = key_of(v);
  }
  if (!__all_sync(kAll, compare)) return false;
  for (int rank = 0; rank < top_k; rank++) {
    uint32_t own = keys[0];
    int at = 0;
#pragma unroll
    for (int i = 1; i < kChosenAtOnce; i++) {
      if (keys[i] > own) own = keys[i], at = i;
    }
    const uint32_t most = __reduce_max_sync(kAll, own);
    const unsigned best = most == taken
                              ? static_cast<unsigned>(rank)  // of logits that were infinite
                              : __reduce_min_sync(kAll, own == most ? static_cast<unsigned>(lane + 32 * at) : ~0u);
#pragma unroll
    for (int i = 0; i < kChosenAtOnce; i++) {
      if (best == static_cast<unsigned>(lane + 32 * i)) keys[i] = taken;
    }
    if (lane == 0) chosen[rank] = static_cast<int>(best);
  }
  return true;
#else
  return false;
#endif
}

// Shared memory of a warp that routes.
inline size_t route_bytes(const RouteOp& op) {
  return (2 * static_cast<size_t>(op.experts) + static_cast<size_t>(op.groups) + static_cast<size_t>(op.top_k)) *
         sizeof(float);
}
struct RouteRoom {
  float *scores, *choice, *groups;  // [op.experts], likewise, [op.groups]
  int* chosen;                      // [op.top_k]

  __device__ __forceinline__ RouteRoom(const RouteOp& op, float* shared)
      : scores(shared),
        choice(shared + op.experts),
        groups(shared + 2 * op.experts),
        chosen(reinterpret_cast<int*>(shared + 2 * op.experts + op.groups)) {}
};

__device__ __forceinline__ const uint16_t* drawn_of(const RouteArguments& a, int row) {
  const int64_t entry = (max(a.positions[row], 0) + int64_t{DrawnRoutes::kStep} * a.sequences[row]) % a.drawn_entries;
  return a.drawn + entry * a.drawn_stride;
}

// By a warp, of a.logits or those that it is given. room.chosen has the numbers too.
__device__ inline void route_row(const RouteArguments& a, int row, const float* logits, const float* bias,
                                 const RouteRoom& room, int lane) {
  const RouteOp& op = a.op;
  float *scores = room.scores, *choice = room.choice, *groups = room.groups;
  int* chosen = room.chosen;
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
  if (a.drawn != nullptr) {
    const uint16_t* drawn = drawn_of(a, row);
    for (int i = lane; i < op.top_k; i += 32) chosen[i] = drawn[i];
  } else if (!choose_fast(choice, op.experts, op.top_k, lane, chosen)) {
    for (int i = 0; i < op.top_k; i++) {
      int best = best_of(choice, op.experts, lane).index;
      if (best < 0) best = i;  // of logits that were infinite: the weights are no numbers either
      __syncwarp();
      if (lane == 0) {
        choice[best] = -INFINITY;
        chosen[i] = best;
      }
      __syncwarp();
    }
  }
  __syncwarp();
  float* routes = a.routes + static_cast<size_t>(row) * 2 * op.top_k;
  float sum = 0;
  for (int i = 0; i < op.top_k; i++) sum += scores[chosen[i]];
  for (int i = lane; i < op.top_k; i += 32) {
    float weight = scores[chosen[i]];
    if (op.renormalise) weight /= sum;
    routes[i] = static_cast<float>(chosen[i]);
    routes[op.top_k + i] = weight * op.scale;
    if (a.chosen != nullptr) {
      a.chosen[static_cast<size_t>(row) * a.chosen_stride + i] = static_cast<uint16_t>(chosen[i]);
    }
  }
}

// Gives frames to experts of the list that lie in RAM, as far as there are any. By a warp that sees the list.
__device__ inline void give_frames(const ExpertList& list, int lane) {
  const ExpertFrames& f = list.frames;
  if (f.offers == nullptr) return;
  constexpr uint32_t kRing = FrameOffers::kRing;
  const uint32_t taken = f.log->taken;
  const int most = min(static_cast<int>(f.offers->given - taken), kMostFills);
  const unsigned before = (1u << lane) - 1;
  int fills = 0;  // experts in RAM; the first `most` of them get frames
  const auto give = [&](int4* tiles, int count) {
    for (int begin = 0; begin < count; begin += 32) {
      const int i = begin + lane;
      const int expert = i < count ? tiles[i].x : -1;
      const bool missed = expert >= 0 && f.in_ram[expert] != 0;
      // An expert's tiles lie side by side, and its first one copies.
      const bool leads = missed && (i == 0 || tiles[i - 1].x != expert);
      const unsigned leading = __ballot_sync(kAll, leads);
      const int rank = fills + __popc(leading & (before | 1u << lane)) - 1;
      if (missed && rank < most) {
        tiles[i].w = leads ? rank + 1 : -(rank + 1);
        if (leads) {
          const uint32_t at = (taken + static_cast<uint32_t>(rank)) % kRing;
          list.fills[rank] = {f.addresses[expert], f.offers->frames[at]};
          f.log->experts[at] = f.first + expert;
        }
      }
      fills += __popc(leading);
    }
  };
  const int few = list.counts[0], many = list.counts[1];
  give(list.few, few);
  give(list.many, many);
  fills = min(fills, most);
  __syncwarp();  // nobody asks any more where they are
  for (int i = lane; i < fills; i += 32) {
    const int expert = f.log->experts[(taken + static_cast<uint32_t>(i)) % kRing] - f.first;
    f.addresses[expert] = list.fills[i].to;
    f.in_ram[expert] = 0;
  }
  if (lane == 0) f.log->taken = taken + static_cast<uint32_t>(fills);
}

// Of one row: tiles in the order of its choices, so that a tile's place is its number. By top_k threads or more, each
// with a choice.
__device__ __forceinline__ void list_row(int expert, int top_k, bool real, const ExpertList& list, uint16_t* log,
                                         int thread) {
  if (thread == 0) {
    list.counts[0] = real ? top_k : 0;
    list.counts[1] = 0;
    list.counts[2] = list.counts[0];
  }
  if (thread >= top_k || !real) return;
  list.few[thread] = make_int4(expert, thread, 1, 0);
  list.places[thread] = thread;
  if (log != nullptr) log[expert] = static_cast<uint16_t>(min(log[expert] + 1, 0xffff));
}

// By a thread block. counts, begins: [experts] in shared memory.
__device__ inline void make_list(const float* routes, int rows, int top_k, int experts, const int32_t* positions,
                                 const ExpertList& list, uint16_t* log, int* counts, int* begins) {
  const int threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
  const int places = rows * top_k;
  if (rows == 1 && top_k <= threads && list.few_rows > 0) {
    const int expert = thread < top_k ? static_cast<int>(routes[thread]) : 0;
    list_row(expert, top_k, positions[0] >= 0, list, log, thread);
    __syncthreads();
    if (thread < 32) give_frames(list, thread);
    return;
  }
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
      if (count > list.few_rows) {
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
      list.counts[2] = before;
    }
    before -= own, few_before -= few, many_before -= many;
    for (int e = first; e < end; e++) {
      const int count = counts[e];
      begins[e] = before;
      if (log != nullptr) log[e] = static_cast<uint16_t>(min(log[e] + count, 0xffff));
      if (count > list.few_rows) {
        for (int at = 0; at < count; at += size) {
          list.many[many_before++] = make_int4(e, before + at, min(size, count - at), 0);
        }
      } else if (count > 0) {
        list.few[few_before++] = make_int4(e, before, count, 0);
      }
      before += count;
    }
    __syncwarp();
    give_frames(list, thread);
  }
  __syncthreads();
  for (int p = thread; p < places; p += threads) {
    const int e = expert_of(p);
    if (e >= 0) list.places[atomicAdd(begins + e, 1)] = p;
  }
}

}  // namespace millrace::cuda
