// What heads found to values: of each head, found W^T with W [value_dim, rank] its rows of the linear, by m16n8k16 with
// float16 operands and float32 sums. A thread block has 32 of a head's features in shared memory and takes tiles of 16
// rows; a warp has 8 of the features and half of the columns. A sum is in one order, whatever the tile.
#include "cuda/latent_common.cuh"

namespace millrace::cuda {
namespace {

template <int BITS, Levels LEVELS>
__global__ __launch_bounds__(kLatentThreads) void values_kernel(LatentArguments a, WideMatrix m, int feature_tiles) {
  extern __shared__ __align__(128) unsigned char dynamic_shared[];
  constexpr int kWarps = kLatentThreads / 32;
  static_assert(2 * kLatentFeatures == kWarps * 8 && kLatentValueRows == 16);
  __shared__ float4 others[kWarps / 2][32];  // what warps of the second half of the columns found
  const LatentShape& s = a.shape;
  const int head = blockIdx.x / feature_tiles, first_feature = blockIdx.x % feature_tiles * kLatentFeatures;
  const int features = min(kLatentFeatures, s.value_dim - first_feature);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int stored = m.slices * kTileK, stride = (stored + 63) / 64 * 64;
  __half* wide = reinterpret_cast<__half*>(dynamic_shared);  // [32, stride]
  __half* tile = wide + kLatentFeatures * stride;            // [16, stride]
  const auto widen_features = [&] {
    // What no weight is written to has to be numbers.
    if (features != kLatentFeatures || stored != stride) {
      for (int i = threadIdx.x; i < kLatentFeatures * stride / 8; i += kLatentThreads) {
        reinterpret_cast<uint4*>(wide)[i] = uint4{};
      }
      __syncthreads();
    }
    const int first = head * (s.nope + s.value_dim) + s.nope + first_feature;
    widen<BITS, LEVELS>(m, first, first + features, 0, m.slices, wide, stride, kWarps);
  };

  allow_successor();
  if (m.weights.early) widen_features();
  wait_for_predecessor();
  if (!m.weights.early) widen_features();

  const auto* order = reinterpret_cast<const int32_t*>(m.weights.units[m.weights.unit] + m.permutation_offset);
  const int row_tiles = (a.rows + kLatentValueRows - 1) / kLatentValueRows;
  for (int row_tile = blockIdx.y; row_tile < row_tiles; row_tile += gridDim.y) {
    const int first_row = row_tile * kLatentValueRows, rows = min(kLatentValueRows, a.rows - first_row);
    __syncthreads();  // nobody reads the last tile any more
    for (int i = threadIdx.x; i < kLatentValueRows * (stride / 8); i += kLatentThreads) {
      const int row = i / (stride / 8), unit = i % (stride / 8);
      const __half* from = a.queries + (static_cast<int64_t>(first_row + row) * s.heads + head) * s.key_dim();
      __half* to = swizzled(tile, stride, row, unit);
      if (!m.permuted) {
        const bool valid = row < rows && unit * 8 < s.rank;
        copy_async(to, valid ? from + unit * 8 : a.queries, valid);
        continue;
      }
      for (int e = 0; e < 8; e++) {
        const int column = row < rows && unit * 8 + e < stored ? order[unit * 8 + e] : -1;
        to[e] = column >= 0 ? from[column] : __half{};
      }
    }
    commit_copies();
    wait_for_copies<0>();
    __syncthreads();
    float d[2][4] = {};  // of even and of odd slices
    const int feature_step = warp % (kWarps / 2), half = warp / (kWarps / 2), steps = stride / 64;
    for (int e = half * steps; e < (half + 1) * steps; e++) {
      uint32_t w[4], x[4];
      load_matrices(w, swizzled(wide, stride, feature_step * 8 + lane % 8, 4 * e + lane / 8));
#pragma unroll
      for (int i = 0; i < 2; i++) {
        load_matrices(x, swizzled(tile, stride, lane % 16, 4 * e + 2 * i + lane / 16));
        mma_m16n8k16(d[i], x[0], x[1], x[2], x[3], w[2 * i], w[2 * i + 1]);
      }
    }
    float sum[4];
#pragma unroll
    for (int r = 0; r < 4; r++) sum[r] = d[0][r] + d[1][r];
    if (half == 1) others[feature_step][lane] = make_float4(sum[0], sum[1], sum[2], sum[3]);
    __syncthreads();
    if (half == 1) continue;
    const float4 other = others[feature_step][lane];
    sum[0] += other.x, sum[1] += other.y, sum[2] += other.z, sum[3] += other.w;
#pragma unroll
    for (int r = 0; r < 4; r++) {
      const int row = g + 8 * (r / 2), feature = feature_step * 8 + 2 * t + r % 2;
      if (row >= rows || feature >= features || a.positions[first_row + row] < 0) continue;
      a.out[static_cast<int64_t>(first_row + row) * a.out_stride + head * s.value_dim + first_feature + feature] =
          __float2half_rn(saturate_half(sum[r]));
    }
  }
}

}  // namespace

cudaError_t latent_values(const LatentArguments& a, cudaStream_t stream, bool programmatic) {
  const DeviceFacts* device = nullptr;
  if (const cudaError_t status = device_facts(&device); status != cudaSuccess) return status;
  const auto launch = plan_latent_values(*device, a.shape, a.matrix, a.rows);
  if (!launch) return cudaErrorInvalidConfiguration;
  const int feature_tiles = launch->grid[0] / a.shape.heads;
  return by_tile(a.matrix, [&]<int BITS, Levels LEVELS>() {
    static OncePerDevice prepared;
    return start_latent(prepared, values_kernel<BITS, LEVELS>, *launch, stream, programmatic, a,
                        wide_matrix(a.matrix, a.weights), feature_tiles);
  });
}

}  // namespace millrace::cuda
