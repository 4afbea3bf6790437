// Attention of decode rows over the paged cache, with rope and the append of the row's own key and value inside.
//
// One CTA takes one row, up to eight query heads of one key head, and a part of the positions that the row sees; of its
// blocks, warp w takes w, w + warps, ... Each warp has a ring of keys and values in shared memory, filled by
// asynchronous copies of its own, the first of them before the predecessor has ended (`early`), so registers and shared
// memory let a CTA run beside one of the linear before it.
//
//   S = Q K^T, m16n8k16: rows 0..7 of A are the queries rounded to float16, rows 8..15 what the rounding lost, so that
//       scores keep float32 queries at no cost. B is 8 positions. The order of the head's elements within the
//       contraction is free, so lane (g, t) takes 8 consecutive elements of position g with one 16-byte load.
//   O^T = V^T P^T: B is P, where S's accumulators already hold it; A is 16 of the head's elements by 16 positions. Lane
//       (g, t) loads 8 consecutive elements of positions 2t, 2t + 1, 2t + 8, 2t + 9 and pairs them up by byte
//       permutation; which elements share an mma is free again.
//
// Sums: positions of a block within the mma, blocks of a warp in ascending order (the highest score so far is the
// reference), warps in order, parts in order. How a row is cut into parts is a function of its position and of the
// model's shape alone, and so is all of this. The parts' sums meet in the shared memory of a cluster, each CTA merging
// its share of the outputs, or, where there are too many or no clusters, in global memory, by the last to arrive.
//
// Of 8 bits, keys and values lie in shared memory as they do in the cache, scales behind them, in stages half as large:
//   S: queries are integers of 16 bits times a scale a query, B the bytes of the keys themselves. Rows 0..7 of A are
//       the upper bytes, rows 8..15 the lower, so that m16n8k32 makes exact sums of both; what the bytes' excess of 128
//       comes to, a sum over the query, is there before. The scales of query and position are applied to the score.
//   O: bytes become float16 integers in registers, exactly; a position's scale is applied to its weight.
//
// Keys that this launch itself brings (the row's own, and those of earlier draft rows of its sequence) come from qkv,
// roped and rounded to the very bits that go to the cache, so no CTA waits for another's append.
#include "cuda/attention_common.cuh"
#include "cuda/norm_heads.cuh"

namespace millrace::cuda {
namespace {

constexpr int kMergeChunk = 16;  // partials in flight when they are merged

struct DecodeShape {
  int group;        // query heads a key head
  int query_tiles;  // CTAs a key head
  int parts;        // of the bucket
  int most_parts_shift;
  float query_scale;
  float score_cap;
  int stages;      // of a warp's ring, each the keys or the values of a block
  int warp_bytes;  // of a warp's ring, or of its sums
  bool cluster;    // the parts of a row are one
};

// Where parts leave their sums, unless they meet in a cluster: float32 [rows, heads, parts, head_dim] not yet divided,
// then (maximum, sum) [rows, heads, parts].
struct Partials {
  float* values;
  float2* statistics;

  __device__ Partials(const AttentionArguments& a, int parts) : values(a.partials) {
    statistics = reinterpret_cast<float2*>(values + static_cast<int64_t>(a.rows) * a.heads * parts * a.head_dim);
  }
};

struct Total {
  float2 values;
  float maximum;
  float sum;
};

// Merges `count` sums, for two of a head's elements, in ascending order, CHUNK of them in flight. What lies beyond
// `count` adds zeros: where one chunk holds all, its size is not seen in the bits (zeros' sign aside: see write_out).
template <int CHUNK, class Statistic, class Value>
__device__ __forceinline__ Total merge(int count, const Statistic& statistic_of, const Value& value_of) {
  Total total{{0.0f, 0.0f}, -INFINITY, 0.0f};
  for (int begin = 0; begin < count; begin += CHUNK) {
    float2 statistic[CHUNK], value[CHUNK];
#pragma unroll
    for (int i = 0; i < CHUNK; i++) {
      statistic[i] = make_float2(-INFINITY, 0.0f);
      value[i] = make_float2(0.0f, 0.0f);
      if (begin + i < count) {
        statistic[i] = statistic_of(begin + i);
        value[i] = value_of(begin + i);
      }
    }
    float maximum = total.maximum;
#pragma unroll
    for (int i = 0; i < CHUNK; i++) maximum = fmaxf(maximum, statistic[i].x);
    const float keep = exp2_approximate(total.maximum - maximum);
    total.maximum = maximum;
    total.sum *= keep;
    total.values.x *= keep;
    total.values.y *= keep;
#pragma unroll
    for (int i = 0; i < CHUNK; i++) {
      const float weight = exp2_approximate(statistic[i].x - maximum);
      total.sum = fmaf(weight, statistic[i].y, total.sum);
      total.values.x = fmaf(weight, value[i].x, total.values.x);
      total.values.y = fmaf(weight, value[i].y, total.values.y);
    }
  }
  return total;
}

// Where a head's 16 bytes lie in a row of shared memory: their index there is their own, exclusive or this. Rows 2q and
// 2q + 1 differ in 4, and rows 2t for t = 0..3 in 2 and 4, so that scores and values are read without bank conflicts.
__device__ __forceinline__ int swizzle(int row) {
  return (row >> 1 & 3) << 1 ^ (row & 1) << 2;
}
// Eight elements of a head that lies as it is in the cache, from element d on; zeros beyond head_dim.
__device__ __forceinline__ uint4 load_any_eight(uint32_t head, int d, int head_dim) {
  if (head_dim % 8 == 0) return d < head_dim ? load_shared_16(head + d * 2) : uint4{};
  uint32_t word[4] = {};
#pragma unroll
  for (int i = 0; i < 8; i++) {
    if (d + i < head_dim) word[i / 2] |= static_cast<uint32_t>(load_shared_2(head + (d + i) * 2)) << (16 * (i % 2));
  }
  return make_uint4(word[0], word[1], word[2], word[3]);
}
__device__ __forceinline__ void wait_for_copies_of(int stages) {  // all but the newest `stages` - 1 groups
  if (stages == 12) {
    wait_for_copies<11>();
  } else if (stages == 6) {
    wait_for_copies<5>();
  } else if (stages == 3) {
    wait_for_copies<2>();
  } else if (stages == 2) {
    wait_for_copies<1>();
  } else {
    wait_for_copies<0>();
  }
}

// The same of a row of 8 bits. Of 64 bytes, rows 2q and 2q + 1 lie beside each other.
template <int D>
__device__ __forceinline__ int swizzle_q8(int row) {
  return D == 64 ? (row >> 1 & 1) << 1 : swizzle(row);
}
// Eight bytes of a head from element d on; zeros beyond head_dim.
__device__ __forceinline__ uint2 load_any_eight_q8(uint32_t head, int d, int head_dim) {
  if (head_dim % 8 == 0) return d < head_dim ? load_shared_8(head + d) : uint2{};
  uint32_t word[2] = {};
#pragma unroll
  for (int i = 0; i < 8; i++) {
    if (d + i < head_dim) word[i / 4] |= load_shared_1(head + d + i) << (8 * (i % 4));
  }
  return make_uint2(word[0], word[1]);
}
__device__ __forceinline__ float2 load_scales(uint32_t address) {
  const uint2 both = load_shared_8(address);
  return make_float2(__uint_as_float(both.x), __uint_as_float(both.y));
}
constexpr float kQ8QueryMost = 127 * 256;  // of a query's integers

// True for the last of `expected` CTAs that come with their writes done; leaves the counter at zero.
__device__ __forceinline__ bool last_to_arrive(unsigned* counter, int expected) {
  __shared__ bool last;
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    last = atomicAdd(counter, 1u) == static_cast<unsigned>(expected - 1);
    if (last) *counter = 0;
    __threadfence();
  }
  __syncthreads();
  return last;
}

// D: head_dim, or with kExact false a multiple of 64 that head_dim is padded to in registers.
template <int D, bool kExact, KvType kType>
__global__ __launch_bounds__(32 * attention_warps(D),
                             D <= 128 ? 2 : 1) void decode_kernel(const __grid_constant__ AttentionArguments a,
                                                                  const __grid_constant__ DecodeShape shape) {
  constexpr int kWarps = attention_warps(D);
  constexpr int kThreads = 32 * kWarps;
  constexpr bool kQ8 = kType == KvType::q8;
  constexpr int kKeyChunks = D / 32, kValueChunks = D / 64;
  constexpr int kLanePairs = D / 64;  // rope pairs of a lane: lane, lane + 32, ...

  extern __shared__ __align__(128) unsigned char rings[];  // [kWarps, warp_bytes]
  __shared__ __align__(16) __half query_fragments[2 * kKeyChunks * 32 * 8];
  // Of 8 bits the fragments take half of that, and behind them is what belongs to a whole query.
  struct QueryFacts {
    float scale;
    int upper, lower, unused;  // what the excess of the keys' bytes comes to, negative
  };
  auto* query_facts = reinterpret_cast<QueryFacts*>(query_fragments + kKeyChunks * 32 * 8);
  static_assert(sizeof(QueryFacts) * kQueries <= kKeyChunks * 32 * 16);
  __shared__ float2 warp_statistics[kWarps][kQueries];                        // maximum, sum
  __shared__ __align__(16) float2 received[kQueries * D / 2 + kMostCluster];  // of all parts, this CTA's share
  __shared__ __align__(16) float2 received_statistics[kMostCluster * kQueries];
  __shared__ __align__(8) uint64_t barrier;

  const int part = blockIdx.x, tile = blockIdx.y, row = blockIdx.z;
  const int kv_head = tile / shape.query_tiles;
  const int first_query = tile % shape.query_tiles * kQueries;
  const int queries = min(kQueries, shape.group - first_query);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int head_dim = kExact ? D : a.head_dim;
  const int half = head_dim / 2;
  const uint32_t ring = shared_address(rings) + warp * shape.warp_bytes;
  const uint32_t parts_barrier = shared_address(&barrier);

  allow_successor();
  if (threadIdx.x == 0) {
    warp_copy_init(parts_barrier);
    warp_copy_init_fence();
  }
  if (!a.early) wait_for_predecessor();

  // Lane i looks at the row i before this one: those of the same sequence just before it hold its newest positions.
  const int other = row - lane;
  const int other_position = other >= 0 ? a.positions[other] : -1;
  const int other_sequence = other >= 0 ? a.sequences[other] : -1;
  const int position = __shfl_sync(~0u, other_position, 0);
  const int sequence = __shfl_sync(~0u, other_sequence, 0);
  const int low = first_visible(a, max(position, 0));
  const int first_block = low / kBlockPositions, visible = position / kBlockPositions + 1 - first_block;
  const int part_blocks = part_blocks_of(visible, shape.most_parts_shift, kWarps);
  const int begin_block = first_block + part * part_blocks;
  const int blocks = min(part_blocks, visible - part * part_blocks);  // of this part
  if (position < 0 || blocks <= 0) {
    // A launch must not end before its predecessor: of every row one CTA stays for it.
    if (a.early && part == 0) wait_for_predecessor();
    return;
  }
  const int parts = (visible + part_blocks - 1) / part_blocks;

  // ---- The warp's ring: keys, then values, of block after block.
  const int32_t* table = a.block_tables + static_cast<int64_t>(sequence) * a.block_table_stride + begin_block + warp;
  const int own_blocks = max(0, (blocks - warp + kWarps - 1) / kWarps);
  const auto unit_bytes = static_cast<uint32_t>(kv_part_bytes(kType, head_dim));
  const __half* cache = a.kv + static_cast<int64_t>(kv_head) * (unit_bytes / 2);
  const int64_t to_values = static_cast<int64_t>(a.kv_heads) * (unit_bytes / 2);
  int ids = lane < own_blocks ? table[lane * kWarps] : 0;  // of blocks ahead / 32 * 32 and on
  int ahead = 0, ahead_slot = 0;                           // the next unit to fetch
  const auto fetch = [&] {
    const int block = ahead / 2;
    if (block < own_blocks) {
      const int id = __shfl_sync(~0u, ids, block % 32);
      const __half* from = cache + id * a.kv_block_elements + (ahead % 2 != 0 ? to_values : 0) + lane * 8;
      const uint32_t unit = ring + ahead_slot * unit_bytes;
      if constexpr (kExact && kQ8) {
        constexpr int kPieces = D / 16, kRows = 32 / kPieces, kSteps = kBlockPositions / kRows;  // of 16 bytes
        const int lane_row = lane / kPieces;
#pragma unroll
        for (int i = 0; i < kSteps; i++) {
          const int piece = lane % kPieces ^ swizzle_q8<D>(i * kRows) ^ swizzle_q8<D>(lane_row);
          copy_async_at(unit + ((i * kRows + lane_row) * kPieces + piece) * 16, from + i * 256);
        }
        if (lane < 4) copy_async_at(unit + kBlockPositions * D + lane * 16, from + kSteps * 256);
      } else if constexpr (kExact) {
        constexpr int kPieces = D / 8, kRows = 32 / kPieces, kSteps = kBlockPositions / kRows;  // of 16 bytes
        static_assert(kPieces <= 32);
        const int lane_row = lane / kPieces;
#pragma unroll
        for (int i = 0; i < kSteps; i++) {
          const int at = (i * kRows + lane_row) * kPieces + (lane % kPieces ^ swizzle(i * kRows) ^ swizzle(lane_row));
          copy_async_at(unit + at * 16, from + i * 256);
        }
      } else {
        for (uint32_t at = lane * 16; at < unit_bytes; at += 512, from += 256) copy_async_at(unit + at, from);
      }
    }
    commit_copies();
    if (++ahead_slot == shape.stages) ahead_slot = 0;
    if (++ahead % 64 == 0 && ahead / 2 < own_blocks) {
      ids = ahead / 2 + lane < own_blocks ? table[(ahead / 2 + lane) * kWarps] : 0;
    }
  };
#pragma unroll 1
  for (int i = 0; i < shape.stages; i++) fetch();
  if (shape.cluster) cluster_arrive_relaxed();  // this CTA runs: its shared memory may be written

  // Rows before this one whose keys this launch brings, this one included.
  const bool before =
      other >= 0 && other_sequence == sequence && other_position >= 0 && other_position == position - lane;
  const unsigned run = __ballot_sync(~0u, before);
  int fresh_rows = run == ~0u ? 32 : __ffs(~run) - 1;
  for (int i = row - 32; fresh_rows >= 32 && i >= 0; i--) {  // long drafts are rare
    if (a.sequences[i] != sequence || a.positions[i] < 0 || a.positions[i] != position - (row - i)) break;
    fresh_rows++;
  }
  if (a.reads_only) fresh_rows = 0;
  const int fresh_begin = position + 1 - fresh_rows;

  // ---- Rope. A lane's pairs are the same in every head.
  float cosine[kLanePairs], sine[kLanePairs];
  const auto load_angles = [&](int at, float(&c)[kLanePairs], float(&s)[kLanePairs]) {
#pragma unroll
    for (int e = 0; e < kLanePairs; e++) {
      const int d = lane + 32 * e;
      const float* rope = a.rope + static_cast<int64_t>(at) * head_dim + d;
      c[e] = d < half ? rope[0] : 0.0f;
      s[e] = d < half ? rope[half] : 0.0f;
    }
  };
  load_angles(position, cosine, sine);
  const int64_t row_floats = row_floats_of(a);
  const float* qkv = a.qkv + row * row_floats;
  struct Pairs {
    float2 v[kLanePairs];
  };
  const auto load_pairs = [&](const float* from) {
    Pairs p;
#pragma unroll
    for (int e = 0; e < kLanePairs; e++) {
      const int d = lane + 32 * e;
      p.v[e] = d < half ? make_float2(from[d], from[d + half]) : make_float2(0.0f, 0.0f);
    }
    return p;
  };
  // ---- The norms of heads, where the launch before has not normed them. half is 32 * kLanePairs there.
  float2 query_weights[kLanePairs], key_weights[kLanePairs];
  const bool norms = kExact && a.norms;
  const auto load_norms = [&] {
    const std::byte* slab = a.weights.units[a.weights.unit];
    const auto* query_norm = reinterpret_cast<const float*>(slab + a.query_norm_offset);
    const auto* key_norm = reinterpret_cast<const float*>(slab + a.key_norm_offset);
#pragma unroll
    for (int e = 0; e < kLanePairs; e++) {
      const int d = lane + 32 * e;
      query_weights[e] = make_float2(query_norm[d], query_norm[d + half]);
      key_weights[e] = make_float2(key_norm[d], key_norm[d + half]);
    }
  };
  const auto normed = [&](Pairs p, const float2(&weights)[kLanePairs]) {
    float squares = 0.0f;
#pragma unroll
    for (int e = 0; e < kLanePairs; e++) squares = fmaf(p.v[e].x, p.v[e].x, squares);
#pragma unroll
    for (int e = 0; e < kLanePairs; e++) squares = fmaf(p.v[e].y, p.v[e].y, squares);
    const float scale = head_norm_scale(squares, head_dim, a.norm_epsilon);
#pragma unroll
    for (int e = 0; e < kLanePairs; e++) {
      p.v[e] = make_float2(p.v[e].x * scale * weights[e].x, p.v[e].y * scale * weights[e].y);
    }
    return p;
  };
  const bool norms_early = a.weights.early || !a.early;
  if (norms && norms_early) load_norms();
  if (a.early) wait_for_predecessor();
  if (norms && !norms_early) load_norms();

  // The row's own key and value, for the warp whose block they belong to.
  const int own_key_block = visible - 1 - part * part_blocks;  // of the part, if below `blocks`
  const bool owner = !a.reads_only && own_key_block < blocks && own_key_block % kWarps == warp;
  const float* qkv_key = qkv + static_cast<int64_t>(a.heads + kv_head) * head_dim;
  Pairs own_key, own_value;
  if (owner) {
    own_key = load_pairs(qkv_key);
    if (norms) own_key = normed(own_key, key_weights);
    own_value = load_pairs(qkv_key + static_cast<int64_t>(a.kv_heads) * head_dim);
  }
  {
    // A fragments: of chunk c and half e of its 8 elements, lane (g, t) holds {rounded, lost} of elements 0, 1, then
    // {rounded, lost} of elements 2, 3. Of 8 bits: of chunk c, {upper, lower} bytes of elements 0..3, then of 4..7.
    const auto store = [&](int query, int element, float x) {
      x = saturate_half(x * shape.query_scale);
      const __half rounded = __float2half_rn(x);
      const int to = ((element / 32 * 2 + element % 8 / 4) * 32 + query * 4 + element % 32 / 8) * 8 +
                     element % 4 / 2 * 4 + element % 2;
      query_fragments[to] = rounded;
      query_fragments[to + 2] = __float2half_rn(x - __half2float(rounded));
    };
    Pairs q[kQueries / kWarps];
#pragma unroll
    for (int i = 0; i < kQueries / kWarps; i++) {
      const int query = warp + i * kWarps;
      if (query < queries) {
        q[i] = load_pairs(qkv + static_cast<int64_t>(kv_head * shape.group + first_query + query) * head_dim);
      } else {
        q[i] = Pairs{};
      }
    }
    if (norms) {
#pragma unroll
      for (int i = 0; i < kQueries / kWarps; i++) {
        if (warp + i * kWarps < queries) q[i] = normed(q[i], query_weights);
      }
    }
#pragma unroll
    for (int i = 0; i < kQueries / kWarps; i++) {
      const int query = warp + i * kWarps;
      if constexpr (kQ8) {
        float2 roped[kLanePairs];
        uint32_t most = 0;
#pragma unroll
        for (int e = 0; e < kLanePairs; e++) {
          roped[e] = rotate(q[i].v[e].x, q[i].v[e].y, cosine[e], sine[e]);
          roped[e] = make_float2(roped[e].x * shape.query_scale, roped[e].y * shape.query_scale);
          most = max(most, max(size_bits(roped[e].x), size_bits(roped[e].y)));
        }
        most = warp_most(most);
        const float size = __uint_as_float(most);
        const bool some = size >= kQ8LeastMost;
        const float inverse = some ? kQ8QueryMost / size : 0.0f;
        int upper_sum = 0, lower_sum = 0;
        const auto put_byte = [&](int element, int upper, int lower) {
          const uint32_t to = shared_address(query_fragments) +
                              (element / 32 * 32 + query * 4 + element % 32 / 8) * 16 + element % 8 / 4 * 8 +
                              element % 4;
          store_shared_1(to, static_cast<uint32_t>(upper));
          store_shared_1(to + 4, static_cast<uint32_t>(lower));
          upper_sum += upper;
          lower_sum += lower;
        };
        const auto put_query = [&](int element, float x) {
          const int n = __float2int_rn(saturate_half(x) * inverse), upper = (n + 128) >> 8;
          put_byte(element, upper, n - 256 * upper);
        };
#pragma unroll
        for (int e = 0; e < kLanePairs; e++) {
          const int d = lane + 32 * e;
          if (d >= half) continue;
          put_query(d, roped[e].x);
          put_query(d + half, roped[e].y);
        }
        if (!kExact) {
          for (int e = head_dim + lane; e < D; e += 32) put_byte(e, 0, 0);
        }
        upper_sum = warp_sum(upper_sum);
        lower_sum = warp_sum(lower_sum);
        if (lane == 0) {
          query_facts[query] = {some                 ? size / kQ8QueryMost
                                : most > 0x7f800000u ? size
                                                     : 0.0f,
                                -kQ8Zero * upper_sum, -kQ8Zero * lower_sum, 0};
        }
      } else {
#pragma unroll
        for (int e = 0; e < kLanePairs; e++) {
          const int d = lane + 32 * e;
          const float2 roped = rotate(q[i].v[e].x, q[i].v[e].y, cosine[e], sine[e]);
          if (d < half) {
            store(query, d, roped.x);
            store(query, d + half, roped.y);
          }
        }
        if (!kExact) {
          for (int e = head_dim + lane; e < D; e += 32) store(query, e, 0.0f);
        }
      }
    }
  }
  __syncthreads();

  // Puts the positions of the block at `at` that this launch brings into the unit, keys or values, at `to`.
  const auto element_address = [&](uint32_t to, int position_in_block, int d) -> uint32_t {
    if (kQ8 && !kExact) return to + position_in_block * head_dim + d;
    if (kQ8) return to + position_in_block * D + (d / 16 ^ swizzle_q8<D>(position_in_block)) * 16 + d % 16;
    if (!kExact) return to + (position_in_block * head_dim + d) * 2;
    return to + position_in_block * D * 2 + ((d / 8 ^ swizzle(position_in_block)) * 8 + d % 8) * 2;
  };
  const auto put = [&](int at, uint32_t to, const Pairs& pairs, bool is_value, const float(&c)[kLanePairs],
                       const float(&s)[kLanePairs], bool append) {
    const int within = at % kBlockPositions;
    const int id = __shfl_sync(~0u, ids, (own_blocks - 1) % 32);  // of the last block, if `append`
    __half* part_in_cache = const_cast<__half*>(cache) + id * a.kv_block_elements + (is_value ? to_values : 0);
    if constexpr (kQ8) {
      auto* part_bytes = reinterpret_cast<uint8_t*>(part_in_cache);
      float2 both[kLanePairs];
      uint32_t most = 0;
#pragma unroll
      for (int e = 0; e < kLanePairs; e++) {  // zeros beyond the head
        both[e] = is_value ? pairs.v[e] : rotate(pairs.v[e].x, pairs.v[e].y, c[e], s[e]);
        most = max(most, max(size_bits(both[e].x), size_bits(both[e].y)));
      }
      const Q8Row q8 = q8_row(warp_most(most));
#pragma unroll
      for (int e = 0; e < kLanePairs; e++) {
        const int d = lane + 32 * e;
        if (d >= half) continue;
        const uint8_t x = q8_of(both[e].x, q8), y = q8_of(both[e].y, q8);
        store_shared_1(element_address(to, within, d), x);
        store_shared_1(element_address(to, within, d + half), y);
        if (append) {
          part_bytes[within * head_dim + d] = x;
          part_bytes[within * head_dim + d + half] = y;
        }
      }
      if (lane == 0) {
        store_shared_4(to + kBlockPositions * head_dim + within * 4, __float_as_uint(q8.scale));
        if (append) reinterpret_cast<float*>(part_bytes + kv_scales_at(head_dim))[within] = q8.scale;
      }
    } else {
      __half* in_cache = part_in_cache + within * head_dim;
#pragma unroll
      for (int e = 0; e < kLanePairs; e++) {
        const int d = lane + 32 * e;
        const float2 both = is_value ? pairs.v[e] : rotate(pairs.v[e].x, pairs.v[e].y, c[e], s[e]);
        const __half x = __float2half_rn(saturate_half(both.x)), y = __float2half_rn(saturate_half(both.y));
        if (d >= half) continue;
        store_shared_2(element_address(to, within, d), __half_as_ushort(x));
        store_shared_2(element_address(to, within, d + half), __half_as_ushort(y));
        if (append) {
          in_cache[d] = x;
          in_cache[d + half] = y;
        }
      }
    }
  };
  const auto put_fresh = [&](int at, uint32_t to, bool is_value) {
    const int end = min(position, at + kBlockPositions - 1);
#pragma unroll 1
    for (int p = max(at, fresh_begin); p < end || (p == end && end < position); p++) {
      const float* from = qkv_key - (position - p) * row_floats + (is_value ? a.kv_heads * head_dim : 0);
      float c[kLanePairs], s[kLanePairs];
      Pairs pairs = load_pairs(from);
      if (!is_value) load_angles(p, c, s);
      if (!is_value && norms) pairs = normed(pairs, key_weights);
      put(p, to, pairs, is_value, c, s, false);
    }
    if (end == position) put(position, to, is_value ? own_value : own_key, is_value, cosine, sine, first_query == 0);
    __syncwarp();
  };

  float maximum = -INFINITY, sum = 0.0f;
  float o[kValueChunks][4][4] = {};
  int slot = 0;
  const auto next_slot = [&] {
    if (++slot == shape.stages) slot = 0;
  };
  // Where this lane's eight elements of chunk 0 begin in a unit: of key g; of values 2t and 2t + 1.
  const int key_at = kQ8 ? g * D + (t / 2 ^ swizzle_q8<D>(g)) * 16 + t % 2 * 8 : g * D * 2 + (t ^ swizzle(g)) * 16;
  const int value_at =
      kQ8 ? 2 * t * D + (g / 2 ^ swizzle_q8<D>(2 * t)) * 16 + g % 2 * 8 : 2 * t * D * 2 + (g ^ swizzle(2 * t)) * 16;
  QueryFacts query{};
  if (kQ8) query = query_facts[g];
#pragma unroll 1
  for (int i = 0; i < own_blocks; i++) {
    const int at = (begin_block + warp + i * kWarps) * kBlockPositions;
    const bool whole = at >= low && at + kBlockPositions <= position + 1;
    const bool fresh = !a.reads_only && at + kBlockPositions > fresh_begin;

    // ---- Scores: lane (g, t) has query g, positions 2t, 2t + 1, 2t + 8, 2t + 9.
    uint32_t unit = ring + slot * unit_bytes;
    wait_for_copies_of(shape.stages);
    __syncwarp();
    if (fresh) put_fresh(at, unit, false);
    float s[2][2][4] = {};
    int32_t exact[2][4];
    float2 key_scales[2];
    if constexpr (kQ8) {
#pragma unroll
      for (int j = 0; j < 2; j++) {
        exact[j][0] = exact[j][1] = query.upper;
        exact[j][2] = exact[j][3] = query.lower;
        key_scales[j] = load_scales(unit + kBlockPositions * head_dim + (8 * j + 2 * t) * 4);
      }
#pragma unroll
      for (int c = 0; c < kKeyChunks; c++) {
        const uint4 q = *reinterpret_cast<const uint4*>(query_fragments + (c * 32 + lane) * 8);
#pragma unroll
        for (int j = 0; j < 2; j++) {
          const uint2 key = kExact ? load_shared_8(unit + 8 * j * D + (key_at ^ c * 32))
                                   : load_any_eight_q8(unit + (8 * j + g) * head_dim, 32 * c + 8 * t, head_dim);
          mma_m16n8k32_s8_u8(exact[j], q.x, q.y, q.z, q.w, key.x, key.y);
        }
      }
    }
#pragma unroll
    for (int c = 0; c < (kQ8 ? 0 : kKeyChunks); c++) {
      uint4 key[2];
#pragma unroll
      for (int j = 0; j < 2; j++) {
        key[j] = kExact ? load_shared_16(unit + 8 * j * D * 2 + ((key_at ^ c % 2 * 64) + c / 2 * 128))
                        : load_any_eight(unit + (8 * j + g) * head_dim * 2, 32 * c + 8 * t, head_dim);
      }
#pragma unroll
      for (int e = 0; e < 2; e++) {
        const uint4 q = *reinterpret_cast<const uint4*>(query_fragments + ((2 * c + e) * 32 + lane) * 8);
#pragma unroll
        for (int j = 0; j < 2; j++) {
          mma_m16n8k16(s[j][e], q.x, q.y, q.z, q.w, e == 0 ? key[j].x : key[j].z, e == 0 ? key[j].y : key[j].w);
        }
      }
    }
    __syncwarp();
    fetch();
    next_slot();
    float score[4], highest = maximum;
#pragma unroll
    for (int n = 0; n < 4; n++) {
      const int j = n / 2, x = n % 2, p = at + 8 * j + 2 * t + x;
      if constexpr (kQ8) {
        // (As unsigned numbers: the upper sums alone may be too large.)
        const auto sum =
            static_cast<int32_t>(256u * static_cast<uint32_t>(exact[j][x]) + static_cast<uint32_t>(exact[j][x + 2]));
        score[n] = static_cast<float>(sum) * (query.scale * (x == 0 ? key_scales[j].x : key_scales[j].y));
      } else {
        score[n] = (s[j][0][x] + s[j][0][x + 2]) + (s[j][1][x] + s[j][1][x + 2]);
      }
      if (shape.score_cap > 0.0f) score[n] = shape.score_cap * tanhf(score[n]);
      if (!whole && (p > position || p < low)) score[n] = -INFINITY;
      highest = fmaxf(highest, score[n]);
    }
    highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 1));
    highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 2));
    const float keep = exp2_approximate(maximum - highest);
    maximum = highest;
    // The sum is of the weights as rounded for the mma, so that they add up to one.
    uint32_t weight[2];
    sum *= keep;
#pragma unroll
    for (int j = 0; j < 2; j++) {
      if constexpr (kQ8) {  // the mma's are made when the values' scales are there
        score[2 * j] = exp2_approximate(score[2 * j] - maximum);
        score[2 * j + 1] = exp2_approximate(score[2 * j + 1] - maximum);
        sum += score[2 * j] + score[2 * j + 1];
      } else {
        weight[j] = pack_halves(exp2_approximate(score[2 * j] - maximum), exp2_approximate(score[2 * j + 1] - maximum));
        const float2 rounded = __half22float2(*reinterpret_cast<const __half2*>(&weight[j]));
        sum += rounded.x + rounded.y;
      }
    }
    // Of 8 bits only where some maximum is new, as it soon seldom is: there are fewer bytes to hide the products
    // behind.
    if (i > 0 && (!kQ8 || __any_sync(~0u, keep != 1.0f))) {
      const float keep_x = __shfl_sync(~0u, keep, 8 * t), keep_y = __shfl_sync(~0u, keep, 8 * t + 4);
#pragma unroll
      for (int c = 0; c < kValueChunks; c++) {
#pragma unroll
        for (int w = 0; w < 4; w++) {
          o[c][w][0] *= keep_x;
          o[c][w][1] *= keep_y;
          o[c][w][2] *= keep_x;
          o[c][w][3] *= keep_y;
        }
      }
    }

    // ---- Weighted values: lane (g, t) has of queries 2t, 2t + 1 elements 64 c + 8 g + 0..7.
    unit = ring + slot * unit_bytes;
    wait_for_copies_of(shape.stages);
    __syncwarp();
    if (fresh) put_fresh(at, unit, true);
    if constexpr (kQ8) {
#pragma unroll
      for (int j = 0; j < 2; j++) {
        const float2 scales = load_scales(unit + kBlockPositions * head_dim + (8 * j + 2 * t) * 4);
        float pair[2] = {score[2 * j] * scales.x * kQ8WeightUnit, score[2 * j + 1] * scales.y * kQ8WeightUnit};
#pragma unroll
        for (int x = 0; x < 2; x++) {
          const int p = at + 8 * j + 2 * t + x;
          if (!whole && (p > position || p < low)) pair[x] = 0.0f;  // not even a NaN
        }
        weight[j] = pack_halves(pair[0], pair[1]);
      }
#pragma unroll
      for (int c = 0; c < kValueChunks; c++) {
        uint2 value[4];
#pragma unroll
        for (int p = 0; p < 4; p++) {
          const int offset = 2 * t + p % 2 + 8 * (p / 2);
          value[p] =
              kExact
                  ? load_shared_8(unit + (p / 2 * 8 + p % 2) * D + ((value_at ^ (D == 64 ? 0 : p % 2 * 64)) ^ c * 64))
                  : load_any_eight_q8(unit + offset * head_dim, 64 * c + 8 * g, head_dim);
        }
#pragma unroll
        for (int w = 0; w < 4; w++) {
          const auto word = [&](int p) { return w < 2 ? value[p].x : value[p].y; };
          const uint32_t selector = w % 2 == 0 ? 0x5140 : 0x7362;
          const uint32_t near = __byte_perm(word(0), word(1), selector), far = __byte_perm(word(2), word(3), selector);
          mma_m16n8k16(o[c][w], q8_halves(near, false), q8_halves(near, true), q8_halves(far, false),
                       q8_halves(far, true), weight[0], weight[1]);
        }
      }
    }
#pragma unroll
    for (int c = 0; c < (kQ8 ? 0 : kValueChunks); c++) {
      uint32_t words[4][4];
#pragma unroll
      for (int p = 0; p < 4; p++) {
        const int offset = 2 * t + p % 2 + 8 * (p / 2);
        uint4 value = kExact ? load_shared_16(unit + (p / 2 * 8 + p % 2) * D * 2 + ((value_at ^ p % 2 * 64) + c * 128))
                             : load_any_eight(unit + offset * head_dim * 2, 64 * c + 8 * g, head_dim);
        if (!whole && (at + offset > position || at + offset < low)) value = uint4{};  // not even a NaN
        words[p][0] = value.x, words[p][1] = value.y, words[p][2] = value.z, words[p][3] = value.w;
      }
#pragma unroll
      for (int w = 0; w < 4; w++) {
        mma_m16n8k16(o[c][w], __byte_perm(words[0][w], words[1][w], 0x5410),
                     __byte_perm(words[0][w], words[1][w], 0x7632), __byte_perm(words[2][w], words[3][w], 0x5410),
                     __byte_perm(words[2][w], words[3][w], 0x7632), weight[0], weight[1]);
      }
    }
    __syncwarp();
    fetch();
    next_slot();
  }
  sum += __shfl_xor_sync(~0u, sum, 1);
  sum += __shfl_xor_sync(~0u, sum, 2);

  // ---- The warps' sums, in order of the warps: each in its ring, which is empty now.
  if (warp < blocks) {
    if (t == 0) warp_statistics[warp][g] = make_float2(maximum, sum);
#pragma unroll
    for (int x = 0; x < 2; x++) {
      if (2 * t + x < queries) {
        const uint32_t to = ring + ((2 * t + x) * D + 8 * g) * 4;
#pragma unroll
        for (int c = 0; c < kValueChunks; c++) {
          store_shared_16(to + 256 * c, {__float_as_uint(o[c][0][x]), __float_as_uint(o[c][0][x + 2]),
                                         __float_as_uint(o[c][1][x]), __float_as_uint(o[c][1][x + 2])});
          store_shared_16(to + 256 * c + 16, {__float_as_uint(o[c][2][x]), __float_as_uint(o[c][2][x + 2]),
                                              __float_as_uint(o[c][3][x]), __float_as_uint(o[c][3][x + 2])});
        }
      }
    }
  }
  const int pairs = queries * half, share = (pairs + parts - 1) / parts;  // of the outputs; of a part's
  if (shape.cluster && parts > 1) {
    const int own = min(share, pairs - part * share);
    if (warp == 0) warp_copy_begin(parts_barrier, static_cast<uint32_t>(parts * (max(own, 0) + queries) * 8), lane);
    cluster_wait();
  }
  __syncthreads();
  const int active = min(kWarps, blocks);
  const int first_head = kv_head * shape.group + first_query;
  const auto write_out = [&](int head, int element, const Total& total) {
    const float inverse = (kQ8 ? 1.0f / kQ8WeightUnit : 1.0f) / (total.sum + sink_weight(a, head, total.maximum));
    *reinterpret_cast<__half2*>(a.out + static_cast<int64_t>(row) * a.out_stride + head * head_dim + element) =
        __floats2half2_rn(fmaf(total.values.x, inverse, 0.0f), fmaf(total.values.y, inverse, 0.0f));  // no -0 of sums
  };
  const Partials partials(a, shape.parts);
  const auto slot_of = [&](int head) { return (static_cast<int64_t>(row) * a.heads + head) * shape.parts; };
  for (int i = threadIdx.x; i < pairs; i += kThreads) {
    const int query = i / half, element = 2 * (i % half);
    const Total total = merge<kWarps>(
        active, [&](int w) { return warp_statistics[w][query]; },
        [&](int w) {
          return *reinterpret_cast<const float2*>(rings + w * shape.warp_bytes + (query * D + element) * 4);
        });
    if (parts == 1) {
      write_out(first_head + query, element, total);
    } else if (shape.cluster) {
      const int to = i / share;
      store_cluster_counted_8(to, shared_address(received + part * share + i - to * share), parts_barrier,
                              total.values);
      if (element == 0) {
        for (int p = 0; p < parts; p++) {
          store_cluster_counted_8(p, shared_address(received_statistics + part * kQueries + query), parts_barrier,
                                  make_float2(total.maximum, total.sum));
        }
      }
    } else {
      const int64_t at = slot_of(first_head + query) + part;
      *reinterpret_cast<float2*>(partials.values + at * head_dim + element) = total.values;
      if (element == 0) partials.statistics[at] = make_float2(total.maximum, total.sum);
    }
  }
  if (parts == 1) return;

  // ---- The parts' sums, in order.
  if (shape.cluster) {
    warp_copy_wait(parts_barrier, 0);
    for (int i = threadIdx.x; i < share && part * share + i < pairs; i += kThreads) {
      const int query = (part * share + i) / half, element = 2 * ((part * share + i) % half);
      write_out(first_head + query, element,
                merge<kMostCluster>(
                    parts, [&](int p) { return received_statistics[p * kQueries + query]; },
                    [&](int p) { return received[p * share + i]; }));
    }
  } else {
    if (!last_to_arrive(a.counters + static_cast<int64_t>(row) * gridDim.y + tile, parts)) return;
    for (int i = threadIdx.x; i < pairs; i += kThreads) {
      const int query = i / half, element = 2 * (i % half);
      const int64_t first = slot_of(first_head + query);
      write_out(
          first_head + query, element,
          merge<kMergeChunk>(
              parts, [&](int p) { return __ldcg(partials.statistics + first + p); },
              [&](int p) {
                return __ldcg(reinterpret_cast<const float2*>(partials.values + (first + p) * head_dim + element));
              }));
    }
  }
}

template <int D, bool kExact, KvType kType>
cudaError_t start(const AttentionArguments& a, const AttentionDecodePlan& plan, cudaStream_t stream,
                  bool programmatic) {
  static OncePerDevice prepared;
  const cudaError_t status = prepared.run([] {
    return allow_shared_memory(reinterpret_cast<const void*>(decode_kernel<D, kExact, kType>),
                               attention_static_bytes(D), true);
  });
  if (status != cudaSuccess) return status;
  DecodeShape shape{};
  shape.group = plan.group;
  shape.query_tiles = plan.query_tiles;
  shape.parts = plan.parts;
  shape.most_parts_shift = plan.most_parts_shift;
  shape.query_scale = query_scale_of(a);
  shape.score_cap = score_cap_of(a);
  shape.stages = plan.stages;
  shape.warp_bytes = plan.warp_bytes;
  shape.cluster = plan.cluster;
  return launch_planned(plan.launch, decode_kernel<D, kExact, kType>, stream, programmatic, a, shape);
}

template <KvType kType>
cudaError_t start_planned(const AttentionArguments& a, const AttentionDecodePlan& plan, cudaStream_t stream,
                          bool programmatic) {
  if (plan.exact) {
    return plan.dim == 64 ? start<64, true, kType>(a, plan, stream, programmatic)
                          : start<128, true, kType>(a, plan, stream, programmatic);
  }
  switch (plan.dim) {
    case 64:
      return start<64, false, kType>(a, plan, stream, programmatic);
    case 128:
      return start<128, false, kType>(a, plan, stream, programmatic);
    default:
      return start<256, false, kType>(a, plan, stream, programmatic);
  }
}

}  // namespace

size_t attention_partials_bytes(const AttentionArguments& a) {
  const int parts = attention_parts(shape_of(a), a.max_context);
  if (parts <= 1) return 0;
  return static_cast<size_t>(a.rows) * a.heads * parts * (a.head_dim + 2) * sizeof(float);
}

size_t attention_counters(const AttentionArguments& a) {
  return static_cast<size_t>(a.rows) * a.kv_heads * attention_query_tiles(shape_of(a));
}

cudaError_t attention_decode(const AttentionArguments& a, cudaStream_t stream, bool programmatic) {
  if (a.rows == 0) return cudaSuccess;
  if (!shape_of(a).valid()) return cudaErrorInvalidValue;
  const DeviceFacts* device = nullptr;
  if (const cudaError_t status = device_facts(&device); status != cudaSuccess) return status;
  const auto plan = plan_attention_decode(*device, shape_of(a), a.rows, a.max_context);
  if (!plan) return cudaErrorInvalidConfiguration;
  return a.kv_type == KvType::q8 ? start_planned<KvType::q8>(a, *plan, stream, programmatic)
                                 : start_planned<KvType::f16>(a, *plan, stream, programmatic);
}

}  // namespace millrace::cuda
