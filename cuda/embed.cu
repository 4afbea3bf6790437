// Rows cross the link in 16-byte loads, several in flight a thread: a row's time is the link's latency.
#include "cuda/embed.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

#include "cuda/common.cuh"

namespace millrace::cuda {
namespace {

constexpr int kMaxThreads = 512;
constexpr int kInFlight = 4;

__device__ __forceinline__ float widen(uint16_t bits, WeightType type) {
  return type == WeightType::f16 ? __half2float(__ushort_as_half(bits))
                                 : __uint_as_float(static_cast<uint32_t>(bits) << 16);
}

// Rows that begin and end on 16 bytes.
__global__ __launch_bounds__(kMaxThreads) void embed_wide_kernel(const std::byte* table, WeightType type,
                                                                 const int32_t* tokens, int hidden, float* out,
                                                                 int64_t stride) {
  allow_successor();
  wait_for_predecessor();
  const int token = tokens[blockIdx.x];
  float* to = out + blockIdx.x * stride;
  const bool is_float = type == WeightType::f32;
  const int per_unit = is_float ? 4 : 8;
  const int units = hidden / per_unit;
  const auto* source = table + static_cast<int64_t>(max(token, 0)) * units * 16;
  for (int begin = threadIdx.x; begin < units; begin += kInFlight * blockDim.x) {
    uint4 unit[kInFlight];
#pragma unroll
    for (int i = 0; i < kInFlight; i++) {
      const int at = begin + i * blockDim.x;
      unit[i] = load_once_if(source + static_cast<int64_t>(at) * 16, at < units && token >= 0);
    }
#pragma unroll
    for (int i = 0; i < kInFlight; i++) {
      const int at = begin + i * blockDim.x;
      if (at >= units) continue;
      const uint32_t words[4] = {unit[i].x, unit[i].y, unit[i].z, unit[i].w};
      if (is_float) {
        *reinterpret_cast<uint4*>(to + at * 4) = unit[i];
      } else {
#pragma unroll
        for (int p = 0; p < 2; p++) {
          const uint32_t a = words[2 * p], b = words[2 * p + 1];
          *reinterpret_cast<float4*>(to + at * 8 + 4 * p) =
              make_float4(widen(a & 0xffff, type), widen(a >> 16, type), widen(b & 0xffff, type), widen(b >> 16, type));
        }
      }
    }
  }
}

__global__ __launch_bounds__(kMaxThreads) void embed_any_kernel(const std::byte* table, WeightType type,
                                                                const int32_t* tokens, int hidden, float* out,
                                                                int64_t stride) {
  allow_successor();
  wait_for_predecessor();
  const int token = tokens[blockIdx.x];
  const int64_t row = static_cast<int64_t>(max(token, 0)) * hidden;
  for (int i = threadIdx.x; i < hidden; i += blockDim.x) {
    float x = 0.0f;
    if (token >= 0) {
      x = type == WeightType::f32 ? reinterpret_cast<const float*>(table)[row + i]
                                  : widen(reinterpret_cast<const uint16_t*>(table)[row + i], type);
    }
    out[blockIdx.x * stride + i] = x;
  }
}

__global__ __launch_bounds__(kMaxThreads) void feed_tokens_kernel(const int32_t* from, const int32_t* chosen, int rows,
                                                                  int32_t* tokens) {
  const int row = blockIdx.x * blockDim.x + threadIdx.x;
  if (row < rows && from[row] >= 0) tokens[row] = max(__ldcv(chosen + from[row]), 0);
}

}  // namespace

cudaError_t embed(const std::byte* table, WeightType type, const int32_t* tokens, int rows, int hidden, float* out,
                  int64_t stride, cudaStream_t stream, bool programmatic) {
  if (rows == 0) return cudaSuccess;
  if (type == WeightType::q4 || hidden < 1) return cudaErrorInvalidValue;
  const int64_t row_bytes = int64_t{hidden} * (type == WeightType::f32 ? 4 : 2);
  const bool wide = row_bytes % 16 == 0 && stride % 4 == 0 &&
                    (reinterpret_cast<uintptr_t>(table) | reinterpret_cast<uintptr_t>(out)) % 16 == 0;
  const int units = static_cast<int>(wide ? row_bytes / 16 : hidden);
  const dim3 threads(std::clamp((units + 31) / 32 * 32, 32, kMaxThreads));
  return launch(wide ? embed_wide_kernel : embed_any_kernel, dim3(rows), threads, 0, stream, programmatic, table, type,
                tokens, hidden, out, stride);
}

cudaError_t feed_tokens(const int32_t* from, const int32_t* chosen, int rows, int32_t* tokens, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  constexpr int kThreads = 128;
  return launch(feed_tokens_kernel, dim3((rows + kThreads - 1) / kThreads), dim3(kThreads), 0, stream, false, from,
                chosen, rows, tokens);
}

}  // namespace millrace::cuda
