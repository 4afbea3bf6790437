// What goes to the CPU and comes back, in mapped memory: few bytes beside an expert's, so a thread block writes and a
// few poll.
#include <algorithm>

#include "cuda/common.cuh"
#include "cuda/moe/answers.h"
#include "cuda/moe/route.cuh"

namespace millrace::cuda {
namespace {

constexpr int kThreads = 512;
constexpr unsigned kWarp = 0xffffffffu;

__global__ void __launch_bounds__(kThreads) send_kernel(const __grid_constant__ AnswerArguments a) {
  __shared__ int sent_experts;
  wait_for_predecessor();
  allow_successor();
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  const unsigned before = (1u << lane) - 1;
  if (thread < 32) {
    const int few = a.list.counts[0], many = a.list.counts[1];
    // Experts with more rows have tiles side by side.
    int missed = 0;
    for (int i = lane; i < few; i += 32) missed += a.in_ram[a.list.few[i].x] != 0;
    for (int i = lane; i < many; i += 32) {
      const int expert = a.list.many[i].x;
      missed += a.in_ram[expert] != 0 && (i == 0 || a.list.many[i - 1].x != expert);
    }
    for (int d = 16; d > 0; d /= 2) missed += __shfl_xor_sync(kWarp, missed, d);
    const int most = a.split[missed];
    int experts = 0, places = 0, kept = 0;
    for (int begin = 0; most > 0 && begin < few; begin += 32) {
      const int i = begin + lane;
      const int4 tile = i < few ? a.list.few[i] : make_int4(0, 0, 0, 0);
      const bool fit = i < few && tile.z <= kMailedRows && a.in_ram[tile.x] != 0;
      const int rank = experts + __popc(__ballot_sync(kWarp, fit) & before);
      const bool goes = fit && rank < most;
      int sum = goes ? tile.z : 0;  // places up to and with the lane's
      for (int d = 1; d < 32; d *= 2) {
        const int other = __shfl_up_sync(kWarp, sum, d);
        if (lane >= d) sum += other;
      }
      const unsigned staying = __ballot_sync(kWarp, i < few && !goes);
      if (goes) {
        const int first = places + sum - tile.z;
        *reinterpret_cast<int4*>(a.entries + rank) = make_int4(tile.x, first, tile.z, 0);
        for (int r = 0; r < tile.z; r++) {
          const int place = a.list.places[tile.y + r];
          a.mail_places[first + r] = place;
          a.places[first + r] = place;
        }
      } else if (i < few) {
        a.list.few[kept + __popc(staying & before)] = tile;
      }
      experts += __popc(__ballot_sync(kWarp, goes));
      places += __shfl_sync(kWarp, sum, 31);
      kept += __popc(staying);
      __syncwarp();
    }
    if (lane == 0) {
      if (experts > 0) {
        a.list.counts[0] = kept;
        *reinterpret_cast<int4*>(a.task) = make_int4(a.unit, experts, a.rows, a.top_k);
      }
      a.state->places = places;
      sent_experts = experts;
    }
    __syncwarp();
    give_frames(a.list, lane);
  }
  __syncthreads();
  if (sent_experts == 0) return;
  const int quarter = a.width / 4;  // a width is a multiple of 4: its halves are padded to 8
  for (int i = thread; i < a.rows * quarter; i += kThreads) {
    const int row = i / quarter, at = i % quarter * 4;
    const uint2 raw = *reinterpret_cast<const uint2*>(a.x + static_cast<size_t>(row) * a.x_stride + at);
    const float2 low = __half22float2(*reinterpret_cast<const __half2*>(&raw.x));
    const float2 high = __half22float2(*reinterpret_cast<const __half2*>(&raw.y));
    reinterpret_cast<float4*>(a.mail_x + static_cast<size_t>(row) * a.width)[at / 4] =
        make_float4(low.x, low.y, high.x, high.y);
  }
  __threadfence_system();
  __syncthreads();
  if (thread != 0) return;
  const uint64_t ticket = a.state->ticket + 1;
  a.state->ticket = ticket;
  __threadfence_system();
  *reinterpret_cast<volatile uint64_t*>(&a.mail_state->sent) = ticket;
}

__global__ void __launch_bounds__(kThreads) receive_kernel(const __grid_constant__ AnswerArguments a, float* results) {
  wait_for_predecessor();
  allow_successor();
  const int places = a.state->places;
  if (places == 0) return;
  if (threadIdx.x == 0) {
    const uint64_t ticket = a.state->ticket;
    for (;;) {
      // answered, given_up: one read of the link
      const ulonglong2 seen = __ldcv(reinterpret_cast<const ulonglong2*>(&a.mail_state->answered));
      if (seen.x >= ticket || seen.y != 0) break;
#if __CUDA_ARCH__ >= 700
      __nanosleep(100);
#endif
    }
    __threadfence_system();
  }
  __syncthreads();
  const int quarter = a.width / 4;
  for (int i = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x); i < places * quarter;
       i += static_cast<int>(gridDim.x) * kThreads) {
    const size_t from = static_cast<size_t>(a.places[i / quarter]) * a.width + i % quarter * 4;
    *reinterpret_cast<float4*>(results + from) = __ldcv(reinterpret_cast<const float4*>(a.mail_y + from));
  }
}

}  // namespace

cudaError_t send_experts(const AnswerArguments& a, cudaStream_t stream, bool programmatic) {
  if (a.width % 8 != 0) return cudaErrorInvalidValue;
  return launch(send_kernel, dim3(1), dim3(kThreads), 0, stream, programmatic, a);
}

cudaError_t receive_experts(const AnswerArguments& a, float* results, cudaStream_t stream, bool programmatic) {
  constexpr int kMostBlocks = 16;
  const int blocks = std::min(kMostBlocks, (a.rows * a.top_k * (a.width / 4) + kThreads - 1) / kThreads);
  return launch(receive_kernel, dim3(blocks), dim3(kThreads), 0, stream, programmatic, a, results);
}

}  // namespace millrace::cuda
