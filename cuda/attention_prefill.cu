// Attention of prefill rows: online softmax over tiles of keys (Milakov & Gimelshein 2018, arXiv:1805.02867; tiled as
// in Dao et al. 2022, arXiv:2205.14135), m16n8k16 with float16 operands and float32 sums.
//
// A CTA takes the query heads of one key head (of a group too large for a tile, an equal share of them) and a tile of
// launch rows. A tile's row m is query head m % heads of launch row first + m / heads, so that the query heads of a
// group share every key and value that is loaded. Keys come in tiles of kKeys
// positions that begin at multiples of kKeys from position 0, in ascending order. A row keeps its own running maximum
// and sum, a masked key adds an exact zero, and a tile of keys beyond a row leaves it as it was: a row's bits depend on
// its own position and sequence, not on what else is in its tile. Rows of several sequences may meet in a tile; then
// the keys of each sequence are taken in turn, with the rows of the others masked.
//
// Shared memory holds rows of D halves in 16-byte units; unit u of row r lies at u ^ (r % 8), so that the eight rows of
// an ldmatrix fall into different banks.
#include "cuda/attention_prefill.cuh"

#include <climits>
#include <iterator>
#include <optional>
#include <utility>

namespace millrace::cuda {
namespace {

template <int D>
__device__ __forceinline__ __half* unit_of(__half* rows, int row, int unit) {
  return rows + row * D + ((unit ^ (row % 8)) * 8);
}

// Copies the keys and the values of kKeys positions, zeros outside [begin, end).
template <class Tile>
struct KeyLoader {
  static constexpr bool kExact = Tile::kExact;
  static constexpr int kUnits = Tile::D / 8;             // a position
  static constexpr int kStep = Tile::kThreads / kUnits;  // positions that the threads cover at once
  static constexpr int kSteps = Tile::kKeys / kStep;
  static constexpr int kBlocks =
      kStep >= kBlockPositions ? kSteps : Tile::kKeys / kBlockPositions;  // that a thread meets
  static_assert(Tile::kKeys % kStep == 0 && (kStep % kBlockPositions == 0 || kBlockPositions % kStep == 0));

  const AttentionArguments& a;
  const int32_t* table;
  int64_t head_offset;
  int begin, end;  // positions that any row sees
  int ids[kBlocks];

  __device__ __forceinline__ KeyLoader(const AttentionArguments& arguments, int sequence, int kv_head,
                                       int begin_position, int end_position)
      : a(arguments),
        table(arguments.block_tables + static_cast<int64_t>(sequence) * arguments.block_table_stride),
        head_offset(static_cast<int64_t>(kv_head) * kBlockPositions * arguments.head_dim),
        begin(begin_position),
        end(end_position) {}

  // Block ids of a tile: early, since the copies' addresses wait for them.
  __device__ __forceinline__ void look_up(int tile) {
#pragma unroll
    for (int i = 0; i < kBlocks; i++) {
      const int in_tile =
          kStep >= kBlockPositions ? i * kStep + static_cast<int>(threadIdx.x) / kUnits : i * kBlockPositions;
      const int position = tile * Tile::kKeys + in_tile;
      ids[i] = position < end && position + kBlockPositions > begin ? table[position / kBlockPositions] : 0;
    }
  }

  __device__ __forceinline__ void load(int tile, __half* keys, __half* values) const {
    const int head_dim = kExact ? Tile::D : a.head_dim;
    const int unit = threadIdx.x % kUnits;
#pragma unroll
    for (int i = 0; i < kSteps; i++) {
      const int in_tile = i * kStep + static_cast<int>(threadIdx.x) / kUnits;
      const int position = tile * Tile::kKeys + in_tile;
      const int id = ids[kStep >= kBlockPositions ? i : i * kStep / kBlockPositions];
      const __half* from =
          a.kv + id * a.kv_block_elements + head_offset + (position % kBlockPositions) * head_dim + unit * 8;
      __half* to_keys = unit_of<Tile::D>(keys, in_tile, unit);
      __half* to_values = unit_of<Tile::D>(values, in_tile, unit);
      if (kExact || head_dim % 8 == 0) {
        const bool valid = position >= begin && position < end && (kExact || unit * 8 < head_dim);
        const __half* source = valid ? from : a.kv;
        copy_async(to_keys, source, valid);
        copy_async(to_values, valid ? from + values_after_keys(a) : a.kv, valid);
      } else {
        for (int e = 0; e < 8; e++) {
          const bool valid = position >= begin && position < end && unit * 8 + e < head_dim;
          to_keys[e] = valid ? from[e] : __half{};
          to_values[e] = valid ? from[values_after_keys(a) + e] : __half{};
        }
      }
    }
  }
};

// The same of 8 bits, in two steps: blocks as they lie in the cache come to shared memory by asynchronous copies, and
// are made float16 there, exact integers, when everybody is done with the tile before. A position's scales come apart,
// times kQ8WeightUnit of values; those of positions outside [begin, end) are zeros.
template <class Tile>
struct Q8Loader {
  static constexpr bool kExact = Tile::kExact;
  static constexpr int D = Tile::D, kKeys = Tile::kKeys, kTileBlocks = kKeys / kBlockPositions;

  const AttentionArguments& a;
  const int32_t* table;
  int kv_head, begin, end;
  unsigned char* raw;  // [keys, values][kTileBlocks], each a part of a block
  float* scales;       // [keys, values][kKeys]
  int ids[kTileBlocks];

  __device__ __forceinline__ Q8Loader(const AttentionArguments& arguments, int sequence, int own_kv_head,
                                      int begin_position, int end_position, unsigned char* raw_bytes,
                                      float* scale_floats)
      : a(arguments),
        table(arguments.block_tables + static_cast<int64_t>(sequence) * arguments.block_table_stride),
        kv_head(own_kv_head),
        begin(begin_position),
        end(end_position),
        raw(raw_bytes),
        scales(scale_floats) {}

  __device__ __forceinline__ int head_dim() const { return kExact ? D : a.head_dim; }
  __device__ __forceinline__ int part_bytes() const { return static_cast<int>(kv_part_bytes(KvType::q8, head_dim())); }

  __device__ __forceinline__ void look_up(int tile) {
#pragma unroll
    for (int i = 0; i < kTileBlocks; i++) {
      const int position = tile * kKeys + i * kBlockPositions;
      ids[i] = position < end && position + kBlockPositions > begin ? table[position / kBlockPositions] : -1;
    }
  }

  __device__ __forceinline__ void load() const {
    const int bytes = part_bytes();
#pragma unroll
    for (int i = 0; i < kTileBlocks; i++) {
      if (ids[i] < 0) continue;
      const auto* keys = reinterpret_cast<const unsigned char*>(keys_of(a, ids[i], kv_head));
      const auto* values = keys + 2 * values_after_keys(a);
      for (int at = threadIdx.x * 16; at < bytes; at += Tile::kThreads * 16) {
        copy_async(raw + i * bytes + at, keys + at, true);
        copy_async(raw + (kTileBlocks + i) * bytes + at, values + at, true);
      }
    }
  }

  __device__ __forceinline__ uint2 eight(const unsigned char* row, int d) const {
    if (kExact || head_dim() % 8 == 0) {
      return kExact || d < head_dim() ? *reinterpret_cast<const uint2*>(row + d) : uint2{};
    }
    uint32_t word[2] = {};
#pragma unroll
    for (int i = 0; i < 8; i++) {
      if (d + i < head_dim()) word[i / 4] |= static_cast<uint32_t>(row[d + i]) << (8 * (i % 4));
    }
    return make_uint2(word[0], word[1]);
  }

  __device__ __forceinline__ void widen(int tile, __half* keys, __half* values) const {
    const int bytes = part_bytes();
    for (int i = threadIdx.x; i < 2 * kKeys * (D / 8); i += Tile::kThreads) {
      const int unit = i % (D / 8), row = i / (D / 8);  // of keys, then of values
      const unsigned char* part = raw + row / kBlockPositions * bytes;
      const uint4 halves = q8_eight_halves(eight(part + row % kBlockPositions * head_dim(), unit * 8));
      *reinterpret_cast<uint4*>(unit_of<D>(row < kKeys ? keys : values, row % kKeys, unit)) = halves;
    }
    for (int row = threadIdx.x; row < 2 * kKeys; row += Tile::kThreads) {
      const unsigned char* part = raw + row / kBlockPositions * bytes + kv_scales_at(head_dim());
      const int position = tile * kKeys + row % kKeys;
      const float scale = reinterpret_cast<const float*>(part)[row % kBlockPositions];
      scales[row] = position < begin || position >= end ? 0.0f : row < kKeys ? scale : scale * kQ8WeightUnit;
    }
  }
};

// heads: of the group's query heads, this many a thread block, in head_tiles of them a key head.
template <class Tile, KvType kType>
__global__ __launch_bounds__(Tile::kThreads, Tile::kResident) void prefill_kernel(AttentionArguments a, int heads,
                                                                                  int head_tiles, int tile_rows,
                                                                                  float query_scale, float score_cap) {
  constexpr int D = Tile::D, kKeys = Tile::kKeys, kWarpTiles = Tile::kWarpTiles;
  constexpr bool kExact = Tile::kExact;
  constexpr int kKeyTiles = kKeys / 8;  // n of S
  constexpr int kElementTiles = D / 8;  // n of O
  extern __shared__ __align__(128) unsigned char dynamic_shared[];
  __half* queries = reinterpret_cast<__half*>(dynamic_shared);  // [kRows, D]
  constexpr bool kQ8 = kType == KvType::q8;
  constexpr int kStages = kQ8 ? 1 : 2;
  __half* keys = queries + Tile::kRows * D;     // [kStages, kKeys, D]
  __half* values = keys + kStages * kKeys * D;  // [kStages, kKeys, D]
  // Of 8 bits: where the second stages would be.
  [[maybe_unused]] auto* scales = reinterpret_cast<float*>(values + kKeys * D);  // [keys, values][kKeys]
  [[maybe_unused]] auto* raw = reinterpret_cast<unsigned char*>(scales + 2 * kKeys);
  static_assert(2 * kKeys * 4 + 2 * (kKeys / kBlockPositions) * kv_part_bytes(KvType::q8, D) <= 2 * kKeys * D * 2);
  __shared__ int row_position[kMaxTileRows], row_sequence[kMaxTileRows];

  allow_successor();
  wait_for_predecessor();
  const int kv_head = blockIdx.x / head_tiles, first_head = blockIdx.x * heads;
  const int first = static_cast<int>(gridDim.y - 1 - blockIdx.y) * tile_rows;  // the longest rows first
  const int rows = min(tile_rows, a.rows - first);
  const int head_dim = kExact ? D : a.head_dim;
  const int half = head_dim / 2;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  for (int i = threadIdx.x; i < rows; i += Tile::kThreads) {
    row_position[i] = a.positions[first + i];
    row_sequence[i] = a.sequences[first + i];
  }
  __syncthreads();

  // ---- Queries, roped and scaled, to shared memory; zeros where the tile has no row.
  const int64_t row_floats = row_floats_of(a);
  constexpr int kWide = kExact ? 4 : 1;  // elements at once
  for (int i = threadIdx.x; i < Tile::kRows * (D / 2 / kWide); i += Tile::kThreads) {
    const int m = i / (D / 2 / kWide), d = i % (D / 2 / kWide) * kWide;
    const int row = m / heads;
    const int position = row < rows ? row_position[row] : -1;
    const bool valid = position >= 0 && d < half;
    const float* q = a.qkv + (first + row) * row_floats + static_cast<int64_t>(first_head + m % heads) * head_dim;
    const float* angle = a.rope + static_cast<int64_t>(max(position, 0)) * head_dim;
    if constexpr (kExact) {
      uint32_t low[2] = {}, high[2] = {};
      if (valid) {
        const float4 x = *reinterpret_cast<const float4*>(q + d), y = *reinterpret_cast<const float4*>(q + d + half);
        const float4 c = *reinterpret_cast<const float4*>(angle + d);
        const float4 s = *reinterpret_cast<const float4*>(angle + d + half);
        const float2 r[4] = {rotate(x.x, y.x, c.x, s.x), rotate(x.y, y.y, c.y, s.y), rotate(x.z, y.z, c.z, s.z),
                             rotate(x.w, y.w, c.w, s.w)};
#pragma unroll
        for (int p = 0; p < 2; p++) {
          low[p] = pack_halves(saturate_half(r[2 * p].x * query_scale), saturate_half(r[2 * p + 1].x * query_scale));
          high[p] = pack_halves(saturate_half(r[2 * p].y * query_scale), saturate_half(r[2 * p + 1].y * query_scale));
        }
      }
      *reinterpret_cast<uint2*>(unit_of<D>(queries, m, d / 8) + d % 8) = make_uint2(low[0], low[1]);
      *reinterpret_cast<uint2*>(unit_of<D>(queries, m, (d + half) / 8) + (d + half) % 8) = make_uint2(high[0], high[1]);
    } else {
      const float2 r = valid ? rotate(q[d], q[d + half], angle[d], angle[d + half]) : make_float2(0.0f, 0.0f);
      if (d < half) {
        unit_of<D>(queries, m, d / 8)[d % 8] = __float2half_rn(saturate_half(r.x * query_scale));
        unit_of<D>(queries, m, (d + half) / 8)[(d + half) % 8] = __float2half_rn(saturate_half(r.y * query_scale));
      }
      for (int e = head_dim + d; e < D; e += D / 2) unit_of<D>(queries, m, e / 8)[e % 8] = __half{};
    }
  }

  __syncthreads();

  // ---- This thread's rows: g and g + 8 of each of the warp's tiles.
  constexpr int kThreadRows = 2 * kWarpTiles;
  int thread_row[kThreadRows];
#pragma unroll
  for (int r = 0; r < kThreadRows; r++) thread_row[r] = ((warp * kWarpTiles + r / 2) * 16 + g + 8 * (r % 2)) / heads;
  float maximum[kThreadRows], sum[kThreadRows];
#pragma unroll
  for (int r = 0; r < kThreadRows; r++) {
    maximum[r] = -INFINITY;
    sum[r] = 0.0f;
  }
  float o[kWarpTiles][kElementTiles][4] = {};

  for (int run_begin = 0; run_begin < rows;) {
    // ---- The next run of rows of one sequence; every warp finds it by itself.
    const int sequence = row_sequence[run_begin];
    int run_end = run_begin, last = -1, first_key = INT_MAX;
    for (bool more = true; more;) {
      const int i = run_end + lane;
      const bool same = i < rows && row_sequence[i] == sequence;
      const unsigned different = __ballot_sync(~0u, !same);
      const int count = different == 0 ? 32 : __ffs(different) - 1;
      if (lane < count) last = max(last, row_position[i]);
      if (lane < count && row_position[i] >= 0) first_key = min(first_key, first_visible(a, row_position[i]));
      run_end += count;
      more = count == 32;
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      last = max(last, __shfl_xor_sync(~0u, last, offset));
      first_key = min(first_key, __shfl_xor_sync(~0u, first_key, offset));
    }
    // Positions that this thread's rows see, from 0; and those that any and that all rows of the warp see.
    int visible[kThreadRows], low[kThreadRows];
    int any = 0, all = last + 1, lowest = last, highest_low = 0;
#pragma unroll
    for (int r = 0; r < kThreadRows; r++) {
      const bool mine = thread_row[r] >= run_begin && thread_row[r] < run_end;
      visible[r] = mine ? row_position[thread_row[r]] + 1 : 0;
      low[r] = visible[r] > 0 ? first_visible(a, visible[r] - 1) : 0;
      if (visible[r] > 0) lowest = min(lowest, low[r]);
      highest_low = max(highest_low, low[r]);
      any = max(any, visible[r]);
      all = min(all, visible[r]);
    }
#pragma unroll
    for (int offset = 4; offset < 32; offset *= 2) {
      any = max(any, __shfl_xor_sync(~0u, any, offset));
      all = min(all, __shfl_xor_sync(~0u, all, offset));
      lowest = min(lowest, __shfl_xor_sync(~0u, lowest, offset));
      highest_low = max(highest_low, __shfl_xor_sync(~0u, highest_low, offset));
    }
    run_begin = run_end;
    if (last < 0) continue;  // padding

    const int first_tile = first_key / kKeys, key_tiles = last / kKeys + 1;
    auto loader = [&] {
      if constexpr (kQ8) {
        return Q8Loader<Tile>(a, sequence, kv_head, first_key, last + 1, raw, scales);
      } else {
        return KeyLoader<Tile>(a, sequence, kv_head, first_key, last + 1);
      }
    }();
    loader.look_up(first_tile);
    __syncthreads();  // nobody reads the stages any more
    if constexpr (kQ8) {
      loader.load();
    } else {
      loader.load(first_tile, keys + first_tile % 2 * kKeys * D, values + first_tile % 2 * kKeys * D);
    }
    commit_copies();
    loader.look_up(first_tile + 1);
    for (int tile = first_tile; tile < key_tiles; tile++) {
      __half* tile_keys = keys + tile % kStages * kKeys * D;
      __half* tile_values = values + tile % kStages * kKeys * D;
      wait_for_copies<0>();
      __syncthreads();  // this stage is there, and nobody reads the other any more
      if constexpr (kQ8) {
        loader.widen(tile, keys, values);
        __syncthreads();  // and may be overwritten
      }
      if (tile + 1 < key_tiles) {
        if constexpr (kQ8) {
          loader.load();
        } else {
          loader.load(tile + 1, keys + (tile + 1) % 2 * kKeys * D, values + (tile + 1) % 2 * kKeys * D);
        }
        commit_copies();
        loader.look_up(tile + 2);
      }
      const int at = tile * kKeys;
      if (at >= any || at + kKeys <= lowest) continue;

      float s[kWarpTiles][kKeyTiles][4] = {};
#pragma unroll
      for (int e = 0; e < D / 16; e++) {
        uint32_t q[kWarpTiles][4];
#pragma unroll
        for (int w = 0; w < kWarpTiles; w++) {
          load_matrices(q[w], unit_of<D>(queries, (warp * kWarpTiles + w) * 16 + lane % 16, 2 * e + lane / 16));
        }
#pragma unroll
        for (int n = 0; n < kKeyTiles; n += 2) {
          uint32_t k[4];
          load_matrices(k, unit_of<D>(tile_keys, n * 8 + lane % 8 + lane / 16 * 8, 2 * e + lane / 8 % 2));
#pragma unroll
          for (int w = 0; w < kWarpTiles; w++) {
            mma_m16n8k16(s[w][n], q[w][0], q[w][1], q[w][2], q[w][3], k[0], k[1]);
            mma_m16n8k16(s[w][n + 1], q[w][0], q[w][1], q[w][2], q[w][3], k[2], k[3]);
          }
        }
      }

      if constexpr (kQ8) {
#pragma unroll
        for (int n = 0; n < kKeyTiles; n++) {
          const float2 scale = *reinterpret_cast<const float2*>(scales + 8 * n + 2 * t);
#pragma unroll
          for (int w = 0; w < kWarpTiles; w++) {
#pragma unroll
            for (int x = 0; x < 4; x++) s[w][n][x] *= x % 2 == 0 ? scale.x : scale.y;
          }
        }
      }
      if (score_cap > 0.0f) {
#pragma unroll
        for (int w = 0; w < kWarpTiles; w++) {
#pragma unroll
          for (int n = 0; n < kKeyTiles; n++) {
#pragma unroll
            for (int x = 0; x < 4; x++) s[w][n][x] = score_cap * tanhf(s[w][n][x]);
          }
        }
      }
      const bool masked = at + kKeys > all || at < highest_low;
#pragma unroll
      for (int r = 0; r < kThreadRows; r++) {
        const int w = r / 2, h = r % 2;
        if (masked) {
#pragma unroll
          for (int n = 0; n < kKeyTiles; n++) {
#pragma unroll
            for (int x = 0; x < 2; x++) {
              const int position = at + 8 * n + 2 * t + x;
              if (position >= visible[r] || position < low[r]) s[w][n][2 * h + x] = -INFINITY;
            }
          }
        }
        float highest = maximum[r];
#pragma unroll
        for (int n = 0; n < kKeyTiles; n++) highest = fmaxf(highest, fmaxf(s[w][n][2 * h], s[w][n][2 * h + 1]));
        highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 1));
        highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 2));
        const float base = highest == -INFINITY ? 0.0f : highest;
        const float keep = exp2_approximate(maximum[r] - base);
        maximum[r] = highest;
        float tile_sum = 0.0f;
#pragma unroll
        for (int n = 0; n < kKeyTiles; n++) {
          s[w][n][2 * h] = exp2_approximate(s[w][n][2 * h] - base);
          s[w][n][2 * h + 1] = exp2_approximate(s[w][n][2 * h + 1] - base);
          tile_sum += s[w][n][2 * h] + s[w][n][2 * h + 1];
        }
        sum[r] = fmaf(sum[r], keep, tile_sum);
#pragma unroll
        for (int n = 0; n < kElementTiles; n++) {
          o[w][n][2 * h] *= keep;
          o[w][n][2 * h + 1] *= keep;
        }
      }

#pragma unroll
      for (int e = 0; e < kKeys / 16; e++) {
        uint32_t p[kWarpTiles][4];
        if constexpr (kQ8) {
#pragma unroll
          for (int n = 2 * e; n < 2 * e + 2; n++) {
            const float2 scale = *reinterpret_cast<const float2*>(scales + kKeys + 8 * n + 2 * t);
#pragma unroll
            for (int w = 0; w < kWarpTiles; w++) {
#pragma unroll
              for (int x = 0; x < 4; x++) s[w][n][x] *= x % 2 == 0 ? scale.x : scale.y;
            }
          }
        }
#pragma unroll
        for (int w = 0; w < kWarpTiles; w++) {
          p[w][0] = pack_halves(s[w][2 * e][0], s[w][2 * e][1]);
          p[w][1] = pack_halves(s[w][2 * e][2], s[w][2 * e][3]);
          p[w][2] = pack_halves(s[w][2 * e + 1][0], s[w][2 * e + 1][1]);
          p[w][3] = pack_halves(s[w][2 * e + 1][2], s[w][2 * e + 1][3]);
        }
#pragma unroll
        for (int n = 0; n < kElementTiles; n += 2) {
          uint32_t v[4];
          load_matrices_transposed(v, unit_of<D>(tile_values, e * 16 + lane % 16, n + lane / 16));
#pragma unroll
          for (int w = 0; w < kWarpTiles; w++) {
            mma_m16n8k16(o[w][n], p[w][0], p[w][1], p[w][2], p[w][3], v[0], v[1]);
            mma_m16n8k16(o[w][n + 1], p[w][0], p[w][1], p[w][2], p[w][3], v[2], v[3]);
          }
        }
      }
    }
  }

  // ---- Through the warp's own rows of the queries' memory, so that whole 16-byte units are written.
  __syncwarp();
#pragma unroll
  for (int r = 0; r < kThreadRows; r++) {
    const int w = r / 2, h = r % 2;
    float total = sum[r];
    total += __shfl_xor_sync(~0u, total, 1);
    total += __shfl_xor_sync(~0u, total, 2);
    const int m = (warp * kWarpTiles + w) * 16 + g + 8 * h;
    const float inverse =
        (kQ8 ? 1.0f / kQ8WeightUnit : 1.0f) / (total + sink_weight(a, first_head + m % heads, maximum[r]));
#pragma unroll
    for (int n = 0; n < kElementTiles; n++) {
      *reinterpret_cast<uint32_t*>(unit_of<D>(queries, m, n) + 2 * t) =
          pack_halves(o[w][n][2 * h] * inverse, o[w][n][2 * h + 1] * inverse);
    }
  }
  __syncwarp();
  for (int i = lane; i < 16 * kWarpTiles * (D / 8); i += 32) {
    const int m = warp * kWarpTiles * 16 + i / (D / 8), unit = i % (D / 8);
    const int row = m / heads;
    if (row >= rows || row_position[row] < 0 || unit * 8 >= head_dim) continue;
    __half* out =
        a.out + static_cast<int64_t>(first + row) * a.out_stride + (first_head + m % heads) * head_dim + unit * 8;
    const __half* from = unit_of<D>(queries, m, unit);
    if (kExact || head_dim % 8 == 0) {
      *reinterpret_cast<uint4*>(out) = *reinterpret_cast<const uint4*>(from);
    } else {
      for (int e = 0; e < min(8, head_dim - unit * 8); e++) out[e] = from[e];
    }
  }
}

template <int INDEX, KvType kType>
cudaError_t start(const AttentionArguments& a, const AttentionPrefillPlan& plan, cudaStream_t stream,
                  bool programmatic) {
  const auto kernel = prefill_kernel<TileOf<INDEX>, kType>;
  static OncePerDevice prepared;
  const cudaError_t status = prepared.run([&] {
    return allow_shared_memory(reinterpret_cast<const void*>(kernel), TileOf<INDEX>::kTile.static_bytes(), false);
  });
  if (status != cudaSuccess) return status;
  return launch_planned(plan.launch, kernel, stream, programmatic, a, plan.heads, plan.head_tiles, plan.tile_rows,
                        query_scale_of(a), score_cap_of(a));
}

template <int... INDICES>
cudaError_t start_tile(std::integer_sequence<int, INDICES...>, const AttentionArguments& a,
                       const AttentionPrefillPlan& plan, cudaStream_t stream, bool programmatic) {
  cudaError_t status = cudaErrorInvalidConfiguration;
  const auto started = [&]<int INDEX>() {
    if (plan.tile != INDEX) return false;
    status = a.kv_type == KvType::q8 ? start<INDEX, KvType::q8>(a, plan, stream, programmatic)
                                     : start<INDEX, KvType::f16>(a, plan, stream, programmatic);
    return true;
  };
  static_cast<void>((started.template operator()<INDICES>() || ...));
  return status;
}
cudaError_t start_planned(const AttentionArguments& a, const std::optional<AttentionPrefillPlan>& plan,
                          cudaStream_t stream, bool programmatic) {
  if (!plan) return cudaErrorInvalidConfiguration;
  constexpr int kTiles = std::size(kPrefillTiles);
  return start_tile(std::make_integer_sequence<int, kTiles>(), a, *plan, stream, programmatic);
}

}  // namespace

cudaError_t attention_prefill(const AttentionArguments& a, cudaStream_t stream, bool programmatic) {
  if (a.rows == 0) return cudaSuccess;
  if (!shape_of(a).valid()) return cudaErrorInvalidValue;
  const DeviceFacts* device = nullptr;
  if (const cudaError_t status = device_facts(&device); status != cudaSuccess) return status;
  if (!a.reads_only) {
    if (const cudaError_t status = append_kv(a, stream, programmatic); status != cudaSuccess) return status;
  }
  return start_planned(a, plan_attention_prefill(*device, shape_of(a), a.rows), stream, programmatic);
}

cudaError_t attention_prefill_tiles(const AttentionArguments& a, int tile, cudaStream_t stream, bool programmatic) {
  const DeviceFacts* device = nullptr;
  if (const cudaError_t status = device_facts(&device); status != cudaSuccess) return status;
  return start_planned(a, plan_attention_prefill_tile(*device, shape_of(a), a.rows, tile), stream, programmatic);
}

}  // namespace millrace::cuda
