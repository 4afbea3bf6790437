// Experts of a prompt's rows: each row's x once for each of its choices, side by side by expert, which the prefill
// linear (linear_prefill_sm90.cuh) multiplies tile by tile. An expert's weights become float16 once for 64 or 128 rows,
// where the kernel of decoding (experts.cuh) does it for 32 and gives a warp two chunks of K.
#include <algorithm>

#include "cuda/device.h"
#include "cuda/linear_prefill.cuh"
#include "cuda/moe/experts.h"

namespace millrace::cuda {
namespace {

constexpr int kThreads = 256;

// Thread blocks take places in turn.
__global__ void gather_kernel(const __half* x, int x_stride, int top_k, const __grid_constant__ ExpertList list,
                              __half* gathered) {
  wait_for_predecessor();
  allow_successor();
  const int places = list.counts[2];
  for (int at = static_cast<int>(blockIdx.x); at < places; at += static_cast<int>(gridDim.x)) {
    const auto* from = reinterpret_cast<const uint4*>(x + static_cast<size_t>(list.places[at] / top_k) * x_stride);
    auto* to = reinterpret_cast<uint4*>(gathered + static_cast<size_t>(at) * x_stride);
    for (int i = static_cast<int>(threadIdx.x); i < x_stride / 8; i += kThreads) to[i] = from[i];
  }
}

}  // namespace

cudaError_t gather_places(const __half* x, int x_stride, int top_k, int places, const ExpertList& list,
                          __half* gathered, cudaStream_t stream, bool programmatic) {
  return launch(gather_kernel, dim3(std::min(places, 2048)), dim3(kThreads), 0, stream, programmatic, x, x_stride,
                top_k, list, gathered);
}

cudaError_t experts_of_prompt(const ExpertArguments& a, cudaStream_t stream, bool programmatic) {
  if (a.rows < 1 || a.x_stride % 8 != 0 || a.list.few_rows != 0) return cudaErrorInvalidValue;
  const DeviceFacts* device = nullptr;
  if (const cudaError_t status = device_facts(&device); status != cudaSuccess) return status;
  const auto plan = plan_prompt(*device, a.matrix, a.rows * a.top_k, a.experts);
  if (!plan || a.list.many_rows != plan->rows) return cudaErrorInvalidConfiguration;
  PrefillTask task = prefill_task_of(a.matrix);
  task.units = a.weights.units;
  task.unit = a.weights.unit;
  task.x = a.x;
  task.x_stride = a.x_stride;
  task.rows = a.rows * a.top_k;
  const bool store = a.epilogue == ExpertEpilogue::store;
  task.epilogue = store ? LinearEpilogue::store : LinearEpilogue::silu_mul;
  task.y = a.y;
  task.y_stride = a.y_stride;
  task.act = a.act;
  task.act_stride = a.act_stride;
  task.intermediate = a.features;
  PrefillExperts& experts = task.experts;
  experts.tiles = a.list.many;
  experts.count = a.list.counts + 1;
  experts.places = a.list.places;
  experts.addresses = a.addresses;
  experts.first = a.first;
  experts.stride = a.stride;
  experts.bias_offset = a.bias_offset;
  experts.clamped = a.epilogue == ExpertEpilogue::clamped;
  experts.alpha = a.alpha;
  experts.limit = a.limit;
  return linear_prefill_wgmma(task, a.matrix.code, *plan, stream, programmatic);
}

}  // namespace millrace::cuda
