// Heads of one row over a row's keys, which are values too: online softmax over tiles of keys (Milakov & Gimelshein
// 2018, arXiv:1805.02867), m16n8k16 with float16 operands and float32 sums.
//
// A thread block takes up to 32 heads of a row and a part of its positions. Keys come in tiles that begin at multiples
// of their number, in ascending order. Of a tile
//   scores   warp w: 16 heads (w % tiles) by 16 keys (w / tiles), over all elements of a key; maxima meet in shared
//   memory values   warp w: all heads by 64 elements of the latents, over the tile's keys, whose weights are in shared
//   memory
// so that keys are read from global memory once for all heads, and each element of the cache is in shared memory once.
// Parts leave what they found with its maximum and sum; a launch of its own puts them together in ascending order.
//
// Rows of keys and queries have 576 halves in shared memory, in units of eight as widen.cuh has them.
#include <iterator>
#include <utility>

#include "cuda/latent_common.cuh"

namespace millrace::cuda {
namespace {

constexpr int kStride = kLatentKeyStride;
constexpr int kThreads = 32 * kLatentWarps;

// What parts leave: [rows, heads, parts, rank], then [rows, heads, parts] maxima and sums.
struct Partials {
  float* found;
  float2* numbers;
};
__host__ __device__ inline Partials partials_of(const LatentArguments& a, int parts) {
  const int64_t all = static_cast<int64_t>(a.rows) * a.shape.heads * parts;
  return {a.partials, reinterpret_cast<float2*>(a.partials + all * a.shape.rank)};
}

template <int INDEX>
__global__ __launch_bounds__(kThreads, 1) void attend_kernel(LatentArguments a) {
  constexpr LatentTile kTile = kLatentTiles[INDEX];
  constexpr int kHeads = kTile.heads(), kTiles = kTile.tiles, kKeys = kTile.keys, kStages = kTile.stages;
  constexpr int kGroups = kKeys / 16;      // of keys, a warp each
  constexpr int kKeySteps = kThreads / 8;  // keys that the threads copy at once
  constexpr int kCopies = kKeys / kKeySteps;
  constexpr int kUnits = kMostLatentRank / kLatentWarps / 8;  // of eight elements, a warp of values
  static_assert(kGroups * kTiles <= kLatentWarps && kKeys % kKeySteps == 0);
  extern __shared__ __align__(128) unsigned char dynamic_shared[];
  __half* queries = reinterpret_cast<__half*>(dynamic_shared);  // [kHeads, kStride]
  __half* keys = queries + kHeads * kStride;                    // [kStages, kKeys, kStride]
  __half* weights = keys + kStages * kKeys * kStride;           // [kHeads, kKeys]
  __shared__ float maxima[kGroups][kHeads], sums[kGroups][kHeads], factors[kHeads];

  allow_successor();
  wait_for_predecessor();
  const LatentShape& s = a.shape;
  const int row = blockIdx.z, first_head = blockIdx.y * kHeads, key_dim = s.key_dim();
  const int position = a.positions[row], visible = position + 1;
  if (position < 0) return;
  const int part_positions = a.decode ? latent_part_positions(visible) : visible;
  const int own_parts = (visible + part_positions - 1) / part_positions;
  const int part = blockIdx.x;
  if (part >= own_parts) return;
  const int begin = part * part_positions, end = min(visible, begin + part_positions);
  const int heads = min(kHeads, s.heads - first_head);
  const int sets = (key_dim + 63) / 64;  // of eight units
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int64_t index = static_cast<int64_t>(row) * s.heads + first_head;  // of the first head, among all rows'
  const int own_key = threadIdx.x / 8, own_unit = threadIdx.x % 8;
  const uint32_t queries_at = shared_address(queries), keys_at = shared_address(keys);
  const uint32_t weights_at = shared_address(weights);

  // A row's units own_unit, own_unit + 8, ...: their places lie 128 bytes apart.
  const auto copy_row = [&](uint32_t rows, int row_in_tile, const __half* from, bool valid) {
    const uint32_t to = rows + row_in_tile * (kStride * 2) + ((own_unit ^ (row_in_tile % 8)) << 4);
    const int elements = valid ? key_dim - own_unit * 8 : 0;
#pragma unroll
    for (int set = 0; set < kStride / 64; set++) {
      if (set >= sets) break;
      const bool there = set * 64 < elements;
      copy_part_async_at(to + set * 128, there ? from + set * 64 : a.kv, there ? 16 : 0);
    }
  };
  for (int head = own_key; head < kHeads; head += kKeySteps) {
    const bool valid = head < heads;
    copy_row(queries_at, head, a.queries + (valid ? (index + head) * key_dim : 0) + own_unit * 8, valid);
  }
  const int32_t* table = a.block_tables + static_cast<int64_t>(a.sequences[row]) * a.block_table_stride;
  int ids[kCopies];
  const auto look_up = [&](int tile) {
#pragma unroll
    for (int i = 0; i < kCopies; i++) {
      const int at = tile * kKeys + i * kKeySteps + own_key;
      ids[i] = at < end ? table[at / kBlockPositions] : 0;
    }
  };
  const auto load = [&](int tile) {
    const uint32_t to = keys_at + tile % kStages * (kKeys * kStride * 2);
#pragma unroll
    for (int i = 0; i < kCopies; i++) {
      const int key = i * kKeySteps + own_key, at = tile * kKeys + key;
      copy_row(
          to, key,
          a.kv + ids[i] * a.kv_block_elements + static_cast<int64_t>(at % kBlockPositions) * key_dim + own_unit * 8,
          at < end);
    }
    commit_copies();
  };

  // Where a lane's rows of ldmatrix begin, for each of the units of a set that it has.
  uint32_t query_units[4], key_units[4], value_units[kUnits / 2], weight_units[kKeys / 16];
  const int score_tile = warp % kTiles, group = warp / kTiles;
  const bool scores = group < kGroups;
  {
    const int query = score_tile * 16 + lane % 16, key = group * 16 + lane % 8 + lane / 16 * 8, head = lane % 16;
#pragma unroll
    for (int e = 0; e < 4; e++) {
      query_units[e] = queries_at + query * (kStride * 2) + (((2 * e + lane / 16) ^ (query % 8)) << 4);
      key_units[e] = key * (kStride * 2) + (((2 * e + lane / 8 % 2) ^ (key % 8)) << 4);
    }
#pragma unroll
    for (int n = 0; n < kUnits; n += 2) {
      value_units[n / 2] = lane % 16 * (kStride * 2) + warp * (kUnits * 16) + (((n + lane / 16) ^ (lane % 8)) << 4);
    }
#pragma unroll
    for (int e = 0; e < kKeys / 16; e++) {
      weight_units[e] = weights_at + head * (kKeys * 2) + (((2 * e + lane / 16) ^ (head % (kKeys / 8))) << 4);
    }
  }
  float maximum[2] = {-INFINITY, -INFINITY}, sum[2] = {};  // of heads g and g + 8 of score_tile
  float o[kTiles][kUnits][4] = {};
  const int first_tile = begin / kKeys, last_tile = (end - 1) / kKeys;
  look_up(first_tile);
  if (kStages > 1) {
    load(first_tile);
    look_up(first_tile + 1);
  }
  for (int tile = first_tile; tile <= last_tile; tile++) {
    if (kStages > 1) {
      wait_for_copies<0>();
      __syncthreads();  // this stage is there, and nobody reads the other any more
      if (tile < last_tile) {
        load(tile + 1);
        look_up(tile + 2);
      }
    } else {
      __syncthreads();
      load(tile);
      look_up(tile + 1);
      wait_for_copies<0>();
      __syncthreads();
    }
    const uint32_t tile_keys = keys_at + tile % kStages * (kKeys * kStride * 2);

    float score[2][4] = {};
    if (scores) {
      float even[2][4] = {}, odd[2][4] = {};
#pragma unroll 3
      for (int set = 0; set < sets; set++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
          uint32_t q[4], k[4];
          load_matrices_at(q, query_units[e] + set * 128);
          load_matrices_at(k, tile_keys + key_units[e] + set * 128);
          float(&d)[2][4] = e % 2 == 0 ? even : odd;
          mma_m16n8k16(d[0], q[0], q[1], q[2], q[3], k[0], k[1]);
          mma_m16n8k16(d[1], q[0], q[1], q[2], q[3], k[2], k[3]);
        }
      }
#pragma unroll
      for (int n = 0; n < 2; n++) {
#pragma unroll
        for (int x = 0; x < 4; x++) {
          const int at = tile * kKeys + group * 16 + 8 * n + 2 * t + x % 2;
          score[n][x] = at < end ? even[n][x] + odd[n][x] : -INFINITY;
        }
      }
#pragma unroll
      for (int h = 0; h < 2; h++) {
        float highest = fmaxf(fmaxf(score[0][2 * h], score[0][2 * h + 1]), fmaxf(score[1][2 * h], score[1][2 * h + 1]));
        highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 1));
        highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 2));
        if (t == 0) maxima[group][score_tile * 16 + g + 8 * h] = highest;
      }
    }
    __syncthreads();
    if (scores) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int head = score_tile * 16 + g + 8 * h;
        float highest = maximum[h];
#pragma unroll
        for (int k = 0; k < kGroups; k++) highest = fmaxf(highest, maxima[k][head]);
        const float keep = exp2_approximate(maximum[h] - highest);  // the tile has a key that is seen
        maximum[h] = highest;
        float own = 0.0f;
#pragma unroll
        for (int n = 0; n < 2; n++) {
          const float x = exp2_approximate(score[n][2 * h] - highest);
          const float y = exp2_approximate(score[n][2 * h + 1] - highest);
          own += x + y;
          *reinterpret_cast<uint32_t*>(weights + head * kKeys + (((2 * group + n) ^ (head % (kKeys / 8))) * 8) +
                                       2 * t) = pack_halves(x, y);
        }
        sum[h] = fmaf(sum[h], keep, own);
        if (group == 0 && t == 0) factors[head] = keep;
      }
    }
    __syncthreads();
#pragma unroll
    for (int w = 0; w < kTiles; w++) {
      const float low = factors[w * 16 + g], high = factors[w * 16 + g + 8];
#pragma unroll
      for (int n = 0; n < kUnits; n++) {
        o[w][n][0] *= low, o[w][n][1] *= low;
        o[w][n][2] *= high, o[w][n][3] *= high;
      }
    }
#pragma unroll
    for (int e = 0; e < kKeys / 16; e++) {
      uint32_t p[kTiles][4];
#pragma unroll
      for (int w = 0; w < kTiles; w++) {
        load_matrices_at(p[w], weight_units[e] + w * (16 * kKeys * 2));
      }
#pragma unroll
      for (int n = 0; n < kUnits; n += 2) {
        if ((warp * kUnits + n) * 8 >= s.rank) continue;
        uint32_t v[4];
        load_matrices_transposed(v, __cvta_shared_to_generic(tile_keys + value_units[n / 2] + e * (16 * kStride * 2)));
#pragma unroll
        for (int w = 0; w < kTiles; w++) {
          mma_m16n8k16(o[w][n], p[w][0], p[w][1], p[w][2], p[w][3], v[0], v[1]);
          mma_m16n8k16(o[w][n + 1], p[w][0], p[w][1], p[w][2], p[w][3], v[2], v[3]);
        }
      }
    }
  }

  if (scores) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      sum[h] += __shfl_xor_sync(~0u, sum[h], 1);
      sum[h] += __shfl_xor_sync(~0u, sum[h], 2);
      const int head = score_tile * 16 + g + 8 * h;
      if (t == 0) sums[group][head] = sum[h];
      if (t == 0 && group == 0) maxima[0][head] = maximum[h];
    }
  }
  __syncthreads();
  const Partials partials = partials_of(a, gridDim.x);
#pragma unroll
  for (int w = 0; w < kTiles; w++) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int head = w * 16 + g + 8 * h;
      if (head >= heads) continue;
      float total = 0.0f;
#pragma unroll
      for (int k = 0; k < kGroups; k++) total += sums[k][head];
      const int64_t place = (index + head) * gridDim.x + part;
      if (own_parts > 1 && warp == 0 && t == 0) partials.numbers[place] = make_float2(maxima[0][head], total);
      const float inverse = 1.0f / total;
#pragma unroll
      for (int n = 0; n < kUnits; n++) {
        const int column = (warp * kUnits + n) * 8 + 2 * t;
        if (column >= s.rank) continue;
        const float x = o[w][n][2 * h], y = o[w][n][2 * h + 1];
        if (own_parts > 1) {
          *reinterpret_cast<float2*>(partials.found + place * s.rank + column) = make_float2(x, y);
        } else {  // in the place of the query, which nobody else reads
          *reinterpret_cast<uint32_t*>(a.queries + (index + head) * key_dim + column) =
              pack_halves(x * inverse, y * inverse);
        }
      }
    }
  }
}

// A thread block 128 columns of a head and row: four of them a thread, eight of the parts a warp, in ascending order.
constexpr int kCombineColumns = 128, kCombineWarps = 4, kCombineParts = kLatentParts / kCombineWarps;
static_assert(kLatentParts <= 32);

__global__ __launch_bounds__(32 * kCombineWarps) void combine_kernel(LatentArguments a, int parts, int column_tiles) {
  __shared__ float4 sums[kCombineWarps][32];
  allow_successor();
  wait_for_predecessor();
  const LatentShape& s = a.shape;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int head = blockIdx.x / column_tiles, row = blockIdx.y, visible = a.positions[row] + 1;
  const int column = blockIdx.x % column_tiles * kCombineColumns + 4 * lane;
  if (visible <= 0) return;
  const int part_positions = latent_part_positions(visible);
  const int own_parts = (visible + part_positions - 1) / part_positions;
  if (own_parts == 1) return;
  const Partials partials = partials_of(a, parts);
  const int64_t index = static_cast<int64_t>(row) * s.heads + head;
  const float2 own = lane < own_parts ? partials.numbers[index * parts + lane] : make_float2(-INFINITY, 0.0f);
  float maximum = own.x;
#pragma unroll
  for (int d = 16; d > 0; d /= 2) maximum = fmaxf(maximum, __shfl_xor_sync(~0u, maximum, d));
  const float weight = exp2_approximate(own.x - maximum);
  float total = weight * own.y;
#pragma unroll
  for (int d = 16; d > 0; d /= 2) total += __shfl_xor_sync(~0u, total, d);
  float4 found{};
#pragma unroll
  for (int i = 0; i < kCombineParts; i++) {
    const int part = warp * kCombineParts + i;
    const float of_part = __shfl_sync(~0u, weight, part);
    if (part >= own_parts || column >= s.rank) continue;
    const float4 v = *reinterpret_cast<const float4*>(partials.found + (index * parts + part) * s.rank + column);
    found.x = fmaf(of_part, v.x, found.x), found.y = fmaf(of_part, v.y, found.y);
    found.z = fmaf(of_part, v.z, found.z), found.w = fmaf(of_part, v.w, found.w);
  }
  sums[warp][lane] = found;
  __syncthreads();
  if (warp != 0 || column >= s.rank) return;
#pragma unroll
  for (int w = 1; w < kCombineWarps; w++) {
    const float4 more = sums[w][lane];
    found.x += more.x, found.y += more.y, found.z += more.z, found.w += more.w;
  }
  const float inverse = 1.0f / total;
  *reinterpret_cast<uint2*>(a.queries + index * s.key_dim() + column) =
      make_uint2(pack_halves(found.x * inverse, found.y * inverse), pack_halves(found.z * inverse, found.w * inverse));
}

template <int... INDICES>
cudaError_t start_tile(std::integer_sequence<int, INDICES...>, const LatentArguments& a, const LatentPlan& plan,
                       cudaStream_t stream, bool programmatic) {
  cudaError_t status = cudaErrorInvalidConfiguration;
  const auto start = [&]<int INDEX>() {
    static OncePerDevice prepared;
    status = start_latent(prepared, attend_kernel<INDEX>, plan.launch, stream, programmatic, a);
  };
  static_cast<void>(((plan.tile == INDICES && (start.template operator()<INDICES>(), true)) || ...));
  return status;
}

}  // namespace

cudaError_t latent_attend(const LatentArguments& a, cudaStream_t stream, bool programmatic) {
  const DeviceFacts* device = nullptr;
  if (const cudaError_t status = device_facts(&device); status != cudaSuccess) return status;
  const auto plan = plan_latent(*device, a.shape, a.rows, a.max_context, a.decode);
  if (!plan) return cudaErrorInvalidConfiguration;
  constexpr int kTiles = std::size(kLatentTiles);
  const cudaError_t status = start_tile(std::make_integer_sequence<int, kTiles>(), a, *plan, stream, programmatic);
  if (status != cudaSuccess || plan->parts == 1) return status;
  const int column_tiles = (a.shape.rank + kCombineColumns - 1) / kCombineColumns;
  return launch(combine_kernel, dim3(a.shape.heads * column_tiles, a.rows), dim3(32 * kCombineWarps), 0, stream,
                programmatic, a, plan->parts, column_tiles);
}

cudaError_t latent_attention(const LatentArguments& arguments, cudaStream_t stream, bool programmatic) {
  const int most = latent_rows(arguments.shape, arguments.max_context, arguments.decode);
  const LatentShape& s = arguments.shape;
  for (int row = 0; row < arguments.rows; row += most) {
    LatentArguments a = arguments;
    a.rows = min(most, arguments.rows - row);
    a.q += static_cast<int64_t>(row) * s.heads * (s.nope + s.rotary);
    a.latent += static_cast<int64_t>(row) * s.key_dim();
    a.positions += row;
    a.sequences += row;
    a.out += static_cast<int64_t>(row) * a.out_stride;
    cudaError_t status = latent_queries(a, stream, programmatic);
    if (status == cudaSuccess) status = latent_attend(a, stream, programmatic);
    if (status == cudaSuccess) status = latent_values(a, stream, programmatic);
    if (status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

}  // namespace millrace::cuda
