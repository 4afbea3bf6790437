// Rope of the keys and append of keys and values to the paged cache, one CTA a row: before prefill attention, whose
// tiles read other tiles' keys.
#include "cuda/attention_common.cuh"

namespace millrace::cuda {
namespace {

constexpr int kThreads = 256;

__global__ __launch_bounds__(kThreads) void append_kernel(AttentionArguments a) {
  allow_successor();
  wait_for_predecessor();
  const int row = blockIdx.x;
  const int position = a.positions[row];
  if (position < 0) return;
  const int half = a.head_dim / 2;
  const int pairs = a.kv_heads * half;
  const int block_id =
      a.block_tables[static_cast<int64_t>(a.sequences[row]) * a.block_table_stride + position / kBlockPositions];
  const float* k = a.qkv + row * row_floats_of(a) + static_cast<int64_t>(a.heads) * a.head_dim;
  const float* v = k + static_cast<int64_t>(a.kv_heads) * a.head_dim;
  const float* rope = a.rope + static_cast<int64_t>(position) * a.head_dim;
  const int64_t to_values = values_after_keys(a);
  for (int i = threadIdx.x; i < pairs; i += kThreads) {
    const int kv_head = i / half, d = i % half;
    const int from = kv_head * a.head_dim + d;
    const float2 key = rotate(k[from], k[from + half], rope[d], rope[d + half]);
    const float2 value = make_float2(v[from], v[from + half]);
    __half* to = keys_of(a, block_id, kv_head) + (position % kBlockPositions) * a.head_dim + d;
    to[0] = __float2half_rn(saturate_half(key.x));
    to[half] = __float2half_rn(saturate_half(key.y));
    to[to_values] = __float2half_rn(saturate_half(value.x));
    to[to_values + half] = __float2half_rn(saturate_half(value.y));
  }
}

// A warp takes the key or the value of one head.
__global__ __launch_bounds__(kThreads) void append_q8_kernel(AttentionArguments a) {
  allow_successor();
  wait_for_predecessor();
  const int row = blockIdx.x;
  const int position = a.positions[row];
  if (position < 0) return;
  const int block_id =
      a.block_tables[static_cast<int64_t>(a.sequences[row]) * a.block_table_stride + position / kBlockPositions];
  const float* k = a.qkv + row * row_floats_of(a) + static_cast<int64_t>(a.heads) * a.head_dim;
  const float* rope = a.rope + static_cast<int64_t>(position) * a.head_dim;
  const int half = a.head_dim / 2, lane = threadIdx.x % 32;
  for (int part = threadIdx.x / 32; part < 2 * a.kv_heads; part += kThreads / 32) {
    const float* from = k + static_cast<int64_t>(part) * a.head_dim;  // keys of all heads, then values
    constexpr int kPairs = kMostHeadDim / 2 / 32;
    float2 x[kPairs];
    uint32_t most = 0;
#pragma unroll
    for (int e = 0; e < kPairs; e++) {
      const int d = lane + 32 * e;
      x[e] = d < half ? make_float2(from[d], from[d + half]) : make_float2(0.0f, 0.0f);
      if (part < a.kv_heads && d < half) x[e] = rotate(x[e].x, x[e].y, rope[d], rope[d + half]);
      most = max(most, max(size_bits(x[e].x), size_bits(x[e].y)));
    }
    const Q8Row q8 = q8_row(warp_most(most));
    auto* to = reinterpret_cast<uint8_t*>(keys_of(a, block_id, 0) + part * part_halves_of(a));
    const int within = position % kBlockPositions;
#pragma unroll
    for (int e = 0; e < kPairs; e++) {
      const int d = lane + 32 * e;
      if (d >= half) continue;
      to[within * a.head_dim + d] = q8_of(x[e].x, q8);
      to[within * a.head_dim + d + half] = q8_of(x[e].y, q8);
    }
    if (lane == 0) reinterpret_cast<float*>(to + kv_scales_at(a.head_dim))[within] = q8.scale;
  }
}

}  // namespace

cudaError_t append_kv(const AttentionArguments& arguments, cudaStream_t stream, bool programmatic) {
  if (arguments.rows == 0) return cudaSuccess;
  const auto kernel = arguments.kv_type == KvType::q8 ? append_q8_kernel : append_kernel;
  return launch(kernel, dim3(arguments.rows), dim3(kThreads), 0, stream, programmatic, arguments);
}

}  // namespace millrace::cuda
