// Queries to the space of latents: of each head, q W with W [nope, rank] its rows of the linear, by m16n8k16 with
// float16 operands and float32 sums. A thread block has 64 columns of one head's W in shared memory and takes tiles of
// 32 rows. One more block a head turns the part of queries that turns, and appends a share of the rows' own latents
// to the cache.
//
//   wide [nope, 64]   features as they are contracted: B by transposed ldmatrix, 8 columns a warp
//   rows [32, nope]   A
//
// A column's sum is in the order of features, whatever the tile.
#include "cuda/latent_common.cuh"

namespace millrace::cuda {
namespace {

struct Turning {
  const LatentArguments& a;
  float scale;

  // The pair p of the part that turns, of a row at `position`.
  __device__ __forceinline__ float2 turned(const float* part, int p, int position) const {
    const int half = a.shape.rotary / 2;
    const float* angle = a.rope + static_cast<int64_t>(position) * a.shape.rotary;
    const float x = part[a.interleaved ? 2 * p : p], y = part[a.interleaved ? 2 * p + 1 : p + half];
    return rotate(x, y, angle[p], angle[p + half]);
  }

  __device__ __forceinline__ void query(int row, int head, int p, int position) const {
    const LatentShape& s = a.shape;
    const int width = s.nope + s.rotary;
    const int64_t index = static_cast<int64_t>(row) * s.heads + head;
    const float2 r = turned(a.q + index * width + s.nope, p, position);
    __half* to = a.queries + index * s.key_dim() + s.rank;
    to[p] = __float2half_rn(saturate_half(r.x * scale));
    to[p + s.rotary / 2] = __float2half_rn(saturate_half(r.y * scale));
  }

  __device__ __forceinline__ void append(int row, int column, int position) const {
    const LatentShape& s = a.shape;
    const float* from = a.latent + static_cast<int64_t>(row) * s.key_dim();
    const int block =
        a.block_tables[static_cast<int64_t>(a.sequences[row]) * a.block_table_stride + position / kBlockPositions];
    __half* to = a.kv + block * a.kv_block_elements + static_cast<int64_t>(position % kBlockPositions) * s.key_dim();
    if (column < s.rank) {
      to[column] = __float2half_rn(saturate_half(from[column]));
    } else if (column - s.rank < s.rotary / 2) {
      const float2 r = turned(from + s.rank, column - s.rank, position);
      to[column] = __float2half_rn(saturate_half(r.x));
      to[column + s.rotary / 2] = __float2half_rn(saturate_half(r.y));
    }
  }
};

template <int BITS, Levels LEVELS>
__global__ __launch_bounds__(kLatentThreads) void queries_kernel(LatentArguments a, WideMatrix m, int column_tiles,
                                                                 float scale) {
  extern __shared__ __align__(128) unsigned char dynamic_shared[];
  constexpr int kWarps = kLatentThreads / 32;
  static_assert(kLatentColumns == kWarps * 8 && kLatentQueryRows == 32);
  const LatentShape& s = a.shape;
  const int head = blockIdx.x / (column_tiles + 1), column_tile = blockIdx.x % (column_tiles + 1);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int features = (s.nope + 31) / 32 * 32, stride = (s.nope + 63) / 64 * 64;
  __half* wide = reinterpret_cast<__half*>(dynamic_shared);  // [features, 64]
  __half* tile = wide + features * kLatentColumns;           // [32, stride]
  const bool turns = column_tile == column_tiles;
  const int first_slice = column_tile * (kLatentColumns / kTileK);
  const auto widen_columns = [&] {
    if (turns) return;
    const int slices = min(kLatentColumns / kTileK, m.slices - first_slice);
    // What no weight is written to has to be numbers.
    if (features != s.nope || slices * kTileK != kLatentColumns) {
      for (int i = threadIdx.x; i < features * kLatentColumns / 8; i += kLatentThreads) {
        reinterpret_cast<uint4*>(wide)[i] = uint4{};
      }
      __syncthreads();
    }
    const int first = head * (s.nope + s.value_dim);
    widen<BITS, LEVELS>(m, first, first + s.nope, first_slice, slices, wide, kLatentColumns, kWarps);
  };

  allow_successor();
  if (m.weights.early) widen_columns();
  wait_for_predecessor();
  if (!m.weights.early) widen_columns();

  const int row_tiles = (a.rows + kLatentQueryRows - 1) / kLatentQueryRows;
  for (int row_tile = blockIdx.y; row_tile < row_tiles; row_tile += gridDim.y) {
    const int first_row = row_tile * kLatentQueryRows, rows = min(kLatentQueryRows, a.rows - first_row);
    if (turns) {
      const Turning turning{a, scale};
      for (int i = threadIdx.x; i < rows * (s.rotary / 2); i += kLatentThreads) {
        const int row = first_row + i / (s.rotary / 2), position = a.positions[row];
        if (position >= 0) turning.query(row, head, i % (s.rotary / 2), position);
      }
      for (int row = first_row; row < first_row + rows; row++) {  // a share of the rows a head
        if (row % s.heads != head || a.positions[row] < 0) continue;
        for (int column = threadIdx.x; column < s.key_dim(); column += kLatentThreads) {
          turning.append(row, column, a.positions[row]);
        }
      }
      continue;
    }
    __syncthreads();  // nobody reads the last tile any more
    const int width = s.nope + s.rotary, row_steps = (rows + 15) / 16;
    const bool pairs = s.nope % 2 == 0;
    for (int i = threadIdx.x; i < 16 * row_steps * (stride / 2); i += kLatentThreads) {
      const int row = i / (stride / 2), column = i % (stride / 2) * 2;
      const float* from = a.q + (static_cast<int64_t>(first_row + row) * s.heads + head) * width + column;
      float2 x{};
      if (row < rows && column < s.nope) {
        if (pairs) {
          x = *reinterpret_cast<const float2*>(from);
        } else {
          x = make_float2(from[0], column + 1 < s.nope ? from[1] : 0.0f);
        }
      }
      *reinterpret_cast<uint32_t*>(swizzled(tile, stride, row, column / 8) + column % 8) =
          pack_halves(saturate_half(x.x), saturate_half(x.y));
    }
    __syncthreads();
    float d[2][4] = {};
    for (int e = 0; e < features / 32; e++) {
      uint32_t w[4];
      load_matrices_transposed(w, swizzled(wide, kLatentColumns, e * 32 + lane, warp));
#pragma unroll
      for (int i = 0; i < 2; i++) {
        if (i >= row_steps) continue;
#pragma unroll
        for (int half = 0; half < 2; half++) {
          uint32_t x[4];
          load_matrices(x, swizzled(tile, stride, i * 16 + lane % 16, 4 * e + 2 * half + lane / 16));
          mma_m16n8k16(d[i], x[0], x[1], x[2], x[3], w[2 * half], w[2 * half + 1]);
        }
      }
    }
    const auto* order = reinterpret_cast<const int32_t*>(m.weights.units[m.weights.unit] + m.permutation_offset);
    const int stored = first_slice * kTileK + warp * 8 + 2 * t;
#pragma unroll
    for (int i = 0; i < 2; i++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int row = i * 16 + g + 8 * h;
        if (row >= rows || stored >= m.slices * kTileK) continue;
        __half* to = a.queries + (static_cast<int64_t>(first_row + row) * s.heads + head) * s.key_dim();
        const float x = saturate_half(d[i][2 * h] * scale), y = saturate_half(d[i][2 * h + 1] * scale);
        if (!m.permuted) {
          if (stored < s.rank) *reinterpret_cast<uint32_t*>(to + stored) = pack_halves(x, y);
          continue;
        }
        const int columns[2] = {order[stored], order[stored + 1]};
        if (columns[0] >= 0 && columns[0] < s.rank) to[columns[0]] = __float2half_rn(x);
        if (columns[1] >= 0 && columns[1] < s.rank) to[columns[1]] = __float2half_rn(y);
      }
    }
  }
}

}  // namespace

cudaError_t latent_queries(const LatentArguments& a, cudaStream_t stream, bool programmatic) {
  const DeviceFacts* device = nullptr;
  if (const cudaError_t status = device_facts(&device); status != cudaSuccess) return status;
  const auto launch = plan_latent_queries(*device, a.shape, a.matrix, a.rows);
  if (!launch) return cudaErrorInvalidConfiguration;
  const int column_tiles = launch->grid[0] / a.shape.heads - 1;
  return by_tile(a.matrix, [&]<int BITS, Levels LEVELS>() {
    static OncePerDevice prepared;
    return start_latent(prepared, queries_kernel<BITS, LEVELS>, *launch, stream, programmatic, a,
                        wide_matrix(a.matrix, a.weights), column_tiles, latent_scale_of(a));
  });
}

}  // namespace millrace::cuda
