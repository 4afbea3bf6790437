// Attention of decode rows over the paged cache, with rope and the append of the row's own key and value inside.
//
// One CTA takes one row, up to eight query heads of one key head, and a split of 256 positions, which are 16 blocks of
// the cache: warp w takes blocks w, w + warps, ... Nothing but the queries goes through shared memory on the way in:
//
//   S = Q K^T, m16n8k16: rows 0..7 of A are the queries rounded to float16, rows 8..15 what the rounding lost, so that
//       scores keep float32 queries at no cost. B is 8 positions. The order of the head's elements within the
//       contraction is free, so lane (g, t) takes 8 consecutive elements of position g with one 16-byte load.
//   O^T = V^T P^T: B is P, where S's accumulators already hold it; A is 16 of the head's elements by 16 positions. Lane
//       (g, t) loads 8 consecutive elements of positions 2t, 2t + 1, 2t + 8, 2t + 9 and pairs them up by byte
//       permutation; which elements share an mma is free again.
//
// Sums: positions of a block within the mma, blocks of a warp in ascending order, warps in order, and splits in order,
// 32 at a time, by the last CTA to arrive. All of it is a function of the row's position alone.
//
// Keys that this launch itself brings (the row's own, and those of earlier draft rows of its sequence) come from qkv,
// roped and rounded to the very bits that go to the cache, so no CTA waits for another's append.
#include "cuda/attention_common.cuh"

namespace millrace::cuda {
namespace {

constexpr int kSplitBlocks = kSplitPositions / kBlockPositions;
constexpr int kQueries = 8;        // query heads of a CTA
constexpr int kMergeSplits = 32;   // partials merged by one CTA; above that, their sums are merged once more
constexpr int kMergeChunk = 16;    // of them in flight
constexpr int kFusedRows = 64;     // rows of a launch that ropes and appends by itself
constexpr int kSeparateRows = 16;  // up to which fresh keys have shared memory of their own

int query_tiles(const AttentionArguments& a) {
  return (a.heads / a.kv_heads + kQueries - 1) / kQueries;
}
int splits_of(const AttentionArguments& a) {
  return (a.max_context + kSplitPositions - 1) / kSplitPositions;
}
__host__ __device__ constexpr int merges_of(int splits) {
  return (splits + kMergeSplits - 1) / kMergeSplits;
}

struct DecodeShape {
  int group;        // query heads a key head
  int query_tiles;  // CTAs a key head
  int splits;       // of the bucket
  float query_scale;
  bool appended;        // keys and values of this launch's rows are in the cache already
  int fresh_capacity;   // positions of this launch that shared memory has room for
  bool fresh_separate;  // they do not share it with the warps' sums
};

// Where splits leave their sums: float32 [rows, heads, slots, head_dim] not yet divided, then (maximum, sum)
// [rows, heads, slots]; slots are the splits, then their merged sums.
struct Partials {
  float* values;
  float2* statistics;
  int slots;

  __device__ Partials(const AttentionArguments& a, int splits) : values(a.partials), slots(splits + merges_of(splits)) {
    const int64_t count = static_cast<int64_t>(a.rows) * a.heads * slots;
    statistics = reinterpret_cast<float2*>(values + count * a.head_dim);
  }
};

struct Sums {
  float2 values;
  float maximum;
  float sum;
};

// Merges `count` partials from `first`, for two of a head's elements, in ascending order.
__device__ __forceinline__ Sums merge(const float* values, const float2* statistics, int count, int head_dim) {
  Sums total{{0.0f, 0.0f}, -INFINITY, 0.0f};
  for (int begin = 0; begin < count; begin += kMergeChunk) {
    float2 statistic[kMergeChunk], value[kMergeChunk];
#pragma unroll
    for (int i = 0; i < kMergeChunk; i++) {
      statistic[i] = make_float2(-INFINITY, 0.0f);
      value[i] = make_float2(0.0f, 0.0f);
      if (begin + i < count) {
        statistic[i] = __ldcg(statistics + begin + i);
        value[i] = __ldcg(reinterpret_cast<const float2*>(values + static_cast<int64_t>(begin + i) * head_dim));
      }
    }
    float maximum = total.maximum;
#pragma unroll
    for (int i = 0; i < kMergeChunk; i++) maximum = fmaxf(maximum, statistic[i].x);
    const float keep = exp2_approximate(total.maximum - maximum);
    total.maximum = maximum;
    total.sum *= keep;
    total.values.x *= keep;
    total.values.y *= keep;
#pragma unroll
    for (int i = 0; i < kMergeChunk; i++) {
      const float weight = exp2_approximate(statistic[i].x - maximum);
      total.sum = fmaf(weight, statistic[i].y, total.sum);
      total.values.x = fmaf(weight, value[i].x, total.values.x);
      total.values.y = fmaf(weight, value[i].y, total.values.y);
    }
  }
  return total;
}

// Eight elements of a head from element d on; zeros where not `valid` and beyond head_dim.
template <bool kExact>
__device__ __forceinline__ uint4 load_eight(const __half* head, int d, int head_dim, bool valid) {
  if (kExact) return load_once_if(head + d, valid);
  if (head_dim % 8 == 0) return load_once_if(head + d, valid && d < head_dim);
  uint32_t word[4] = {};
  const auto* bits = reinterpret_cast<const uint16_t*>(head);
#pragma unroll
  for (int i = 0; i < 8; i++) {
    if (valid && d + i < head_dim) word[i / 2] |= static_cast<uint32_t>(bits[d + i]) << (16 * (i % 2));
  }
  return make_uint4(word[0], word[1], word[2], word[3]);
}

template <int D>
constexpr int decode_warps() {
  return D <= 128 ? 8 : 4;
}

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

// D: head_dim, or with kExact false a multiple of 64 that head_dim is padded to on the way in.
// kAhead: blocks of a warp whose values are on their way before anything else: all of them where each CTA has an SM for
// itself, so that latency counts; one where CTAs share SMs, so that registers do (L2 prefetches in their place were
// slower than waiting).
template <int D, bool kExact, int kAhead>
__global__ __launch_bounds__(32 * decode_warps<D>(),
                             D == 64 || (D == 128 && kAhead == 1) ? 2 : 1) void decode_kernel(AttentionArguments a,
                                                                                              DecodeShape shape) {
  constexpr int kWarps = decode_warps<D>();
  constexpr int kThreads = 32 * kWarps;
  constexpr int kWarpBlocks = kSplitBlocks / kWarps;
  constexpr int kKeyChunks = D / 32, kValueChunks = D / 64;
  constexpr int kPairs = D / 2;
  constexpr int kKeySlots = 2;                          // blocks whose keys are in registers at once, from the start
  constexpr int kValueSlots = kWarpBlocks < 2 ? 1 : 2;  // in registers, when the scores are done
  static_assert(kThreads % kPairs == 0, "a thread meets one rope angle");

  // Fresh keys and values [positions, 2, D]; the warps' sums [kWarps, queries, D] after or over them.
  extern __shared__ __align__(16) unsigned char dynamic_shared[];
  __shared__ __align__(16) __half query_fragments[2 * kKeyChunks * 32 * 8];
  __shared__ float warp_maximum[kWarps][kQueries], warp_sum[kWarps][kQueries];
  __half* fresh = reinterpret_cast<__half*>(dynamic_shared);

  const int tile = blockIdx.x, row = blockIdx.y, split = blockIdx.z;
  const int kv_head = tile / shape.query_tiles;
  const int first_query = tile % shape.query_tiles * kQueries;
  const int queries = min(kQueries, shape.group - first_query);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int head_dim = kExact ? D : a.head_dim;
  const int half = head_dim / 2;

  allow_successor();
  if (!a.early) wait_for_predecessor();

  // Lane i looks at the row i before this one: those of the same sequence just before it hold its newest positions.
  const int other = row - lane;
  const int other_position = other >= 0 ? a.positions[other] : -1;
  const int other_sequence = other >= 0 ? a.sequences[other] : -1;
  const int position = __shfl_sync(~0u, other_position, 0);
  const int sequence = __shfl_sync(~0u, other_sequence, 0);
  const int begin = split * kSplitPositions;
  const int low = first_visible(a, position);
  if (position < begin || begin + kSplitPositions <= low) {
    // A launch must not end before its predecessor: of every row one CTA stays for it.
    if (a.early && split == 0) wait_for_predecessor();
    return;
  }
  int fresh_rows = 0;
  if (!shape.appended) {
    const bool before =
        other >= 0 && other_sequence == sequence && other_position >= 0 && other_position == position - lane;
    const unsigned run = __ballot_sync(~0u, before);
    fresh_rows = run == ~0u ? 32 : __ffs(~run) - 1;
    for (int i = row - 32; fresh_rows >= 32 && i >= 0; i--) {  // long drafts are rare
      if (a.sequences[i] != sequence || a.positions[i] < 0 || a.positions[i] != position - (row - i)) break;
      fresh_rows++;
    }
  }
  const int end = min(position + 1, begin + kSplitPositions);
  const int blocks = (end - begin + kBlockPositions - 1) / kBlockPositions;
  const int cached_end = min(end, position + 1 - fresh_rows);
  const int fresh_begin = max(begin, position + 1 - fresh_rows);  // of this split
  const int32_t* table = a.block_tables + static_cast<int64_t>(sequence) * a.block_table_stride + split * kSplitBlocks;
  const int64_t to_values = values_after_keys(a);

  // ---- Loads of the warp's first blocks.
  const __half* block_keys[kWarpBlocks];
  bool used[kWarpBlocks];
#pragma unroll
  for (int i = 0; i < kWarpBlocks; i++) {
    const int block = warp + i * kWarps;
    used[i] = block < blocks && begin + (block + 1) * kBlockPositions > low;
    block_keys[i] = used[i] ? keys_of(a, table[block], kv_head) : nullptr;
  }
  uint4 k[kKeySlots][2][kKeyChunks], v[kValueSlots][4][kValueChunks];
  const auto load_keys = [&](int i) {
    const int at = begin + (warp + i * kWarps) * kBlockPositions;
#pragma unroll
    for (int j = 0; j < 2; j++) {
      const __half* head = block_keys[i] + (8 * j + g) * head_dim;
#pragma unroll
      for (int c = 0; c < kKeyChunks; c++) {
        k[i % kKeySlots][j][c] =
            load_eight<kExact>(head, 32 * c + 8 * t, head_dim, at + 8 * j + g < cached_end && at + 8 * j + g >= low);
      }
    }
  };
  const auto load_values = [&](int i) {
    const int at = begin + (warp + i * kWarps) * kBlockPositions;
#pragma unroll
    for (int p = 0; p < 4; p++) {
      const int offset = 2 * t + p % 2 + 8 * (p / 2);
      const __half* head = block_keys[i] + to_values + offset * head_dim;
#pragma unroll
      for (int c = 0; c < kValueChunks; c++) {
        v[i % kValueSlots][p][c] =
            load_eight<kExact>(head, 64 * c + 8 * g, head_dim, at + offset < cached_end && at + offset >= low);
      }
    }
  };
#pragma unroll
  for (int i = 0; i < kKeySlots; i++) {
    if (used[i]) load_keys(i);
  }
#pragma unroll
  for (int i = 0; i < kAhead; i++) {
    if (used[i]) load_values(i);
  }

  // ---- Rope of the queries and of the fresh keys. A thread's element d is the same in every head.
  const int d = threadIdx.x % kPairs;
  const bool pair = d < half;
  const int64_t row_floats = static_cast<int64_t>(a.heads + 2 * a.kv_heads) * head_dim;
  const float* rope = a.rope + static_cast<int64_t>(position) * head_dim + d;
  const float cosine = pair ? rope[0] : 0.0f;
  const float sine = pair ? rope[half] : 0.0f;
  if (a.early) wait_for_predecessor();
  {
    constexpr int kSteps = kQueries * kPairs / kThreads;
    const float* source =
        a.qkv + row * row_floats + static_cast<int64_t>(kv_head * shape.group + first_query) * head_dim + d;
    float first[kSteps], second[kSteps];
#pragma unroll
    for (int i = 0; i < kSteps; i++) {
      const int query = threadIdx.x / kPairs + i * (kThreads / kPairs);
      const bool valid = pair && query < queries;
      first[i] = valid ? source[query * head_dim] : 0.0f;
      second[i] = valid ? source[query * head_dim + half] : 0.0f;
    }
    const int fresh_count = end - fresh_begin;
    for (int i = threadIdx.x / kPairs; i < 2 * fresh_count; i += kThreads / kPairs) {
      const int at = fresh_begin + i / 2;
      const bool is_value = i % 2 != 0;
      const float* from = a.qkv + (row - (position - at)) * row_floats +
                          static_cast<int64_t>(a.heads + (is_value ? a.kv_heads : 0) + kv_head) * head_dim + d;
      float2 both = pair ? make_float2(from[0], from[half]) : make_float2(0.0f, 0.0f);
      if (!is_value && pair) {
        const float* angle = a.rope + static_cast<int64_t>(at) * head_dim + d;
        both = at == position ? rotate(both.x, both.y, cosine, sine) : rotate(both.x, both.y, angle[0], angle[half]);
      }
      const __half low = __float2half_rn(saturate_half(both.x)), high = __float2half_rn(saturate_half(both.y));
      __half* to = fresh + i * D;
      if (pair) {
        to[d] = low;
        to[d + half] = high;
        if (at == position && first_query == 0) {
          __half* cache = keys_of(a, table[(at - begin) / kBlockPositions], kv_head) +
                          (at % kBlockPositions) * head_dim + (is_value ? to_values : 0) + d;
          cache[0] = low;
          cache[half] = high;
        }
      }
      if (!kExact) {
        for (int e = head_dim + d; e < D; e += kPairs) to[e] = __half{};
      }
    }
    // A fragments: of chunk c and half e of its 8 elements, lane (g, t) holds {rounded, lost} of elements 0, 1, then
    // {rounded, lost} of elements 2, 3.
    const auto store = [&](int query, int element, float x) {
      x = saturate_half(x * shape.query_scale);
      const __half rounded = __float2half_rn(x);
      const int to = ((element / 32 * 2 + element % 8 / 4) * 32 + query * 4 + element % 32 / 8) * 8 +
                     element % 4 / 2 * 4 + element % 2;
      query_fragments[to] = rounded;
      query_fragments[to + 2] = __float2half_rn(x - __half2float(rounded));
    };
#pragma unroll
    for (int i = 0; i < kSteps; i++) {
      const int query = threadIdx.x / kPairs + i * (kThreads / kPairs);
      const float2 q = rotate(first[i], second[i], cosine, sine);
      if (pair) {
        store(query, d, q.x);
        store(query, d + half, q.y);
      }
      if (!kExact) {
        for (int e = head_dim + d; e < D; e += kPairs) store(query, e, 0.0f);
      }
    }
  }
  __syncthreads();

  // ---- Scores of the warp's blocks: lane (g, t) has query g, positions 2t, 2t + 1, 2t + 8, 2t + 9.
  const auto fresh_eight = [&](int at, int is_value, int element) {
    return *reinterpret_cast<const uint4*>(fresh + ((at - fresh_begin) * 2 + is_value) * D + element);
  };
  float score[kWarpBlocks][4];
  float maximum = -INFINITY;
#pragma unroll
  for (int i = 0; i < kWarpBlocks; i++) {
    const int at = begin + (warp + i * kWarps) * kBlockPositions;
    if (!used[i]) continue;
    if (i >= kKeySlots) load_keys(i);
    if (at + kBlockPositions > fresh_begin) {
#pragma unroll
      for (int j = 0; j < 2; j++) {
        const int p = at + 8 * j + g;
        if (p >= fresh_begin && p < end) {
#pragma unroll
          for (int c = 0; c < kKeyChunks; c++) k[i % kKeySlots][j][c] = fresh_eight(p, 0, 32 * c + 8 * t);
        }
      }
    }
    float s[2][4] = {};
#pragma unroll
    for (int c = 0; c < kKeyChunks; c++) {
#pragma unroll
      for (int e = 0; e < 2; e++) {
        const uint4 q = *reinterpret_cast<const uint4*>(query_fragments + ((2 * c + e) * 32 + lane) * 8);
#pragma unroll
        for (int j = 0; j < 2; j++) {
          const uint4 key = k[i % kKeySlots][j][c];
          mma_m16n8k16(s[j], q.x, q.y, q.z, q.w, e == 0 ? key.x : key.z, e == 0 ? key.y : key.w);
        }
      }
    }
#pragma unroll
    for (int n = 0; n < 4; n++) {
      const int j = n / 2, x = n % 2;
      const int p = at + 8 * j + 2 * t + x;
      score[i][n] = p < end && p >= low ? s[j][x] + s[j][x + 2] : -INFINITY;
      maximum = fmaxf(maximum, score[i][n]);
    }
  }
  maximum = fmaxf(maximum, __shfl_xor_sync(~0u, maximum, 1));
  maximum = fmaxf(maximum, __shfl_xor_sync(~0u, maximum, 2));

  // ---- Weighted values: lane (g, t) has of queries 2t, 2t + 1 elements 64 c + 8 g + 0..7.
#pragma unroll
  for (int i = kAhead; i < kValueSlots; i++) {
    if (used[i]) load_values(i);
  }
  float sum = 0.0f;
  float o[kValueChunks][4][4] = {};
#pragma unroll
  for (int i = 0; i < kWarpBlocks; i++) {
    const int at = begin + (warp + i * kWarps) * kBlockPositions;
    if (!used[i]) continue;
    if (at + kBlockPositions > fresh_begin) {
#pragma unroll
      for (int p = 0; p < 4; p++) {
        const int value_at = at + 2 * t + p % 2 + 8 * (p / 2);
        if (value_at >= fresh_begin && value_at < end) {
#pragma unroll
          for (int c = 0; c < kValueChunks; c++) v[i % kValueSlots][p][c] = fresh_eight(value_at, 1, 64 * c + 8 * g);
        }
      }
    }
    // The sum is of the weights as rounded for the mma, so that they add up to one.
    uint32_t weight[2];
#pragma unroll
    for (int j = 0; j < 2; j++) {
      weight[j] =
          pack_halves(exp2_approximate(score[i][2 * j] - maximum), exp2_approximate(score[i][2 * j + 1] - maximum));
      const float2 rounded = __half22float2(*reinterpret_cast<const __half2*>(&weight[j]));
      sum += rounded.x + rounded.y;
    }
#pragma unroll
    for (int c = 0; c < kValueChunks; c++) {
      uint32_t words[4][4];
#pragma unroll
      for (int p = 0; p < 4; p++) {
        const uint4 value = v[i % kValueSlots][p][c];
        words[p][0] = value.x, words[p][1] = value.y, words[p][2] = value.z, words[p][3] = value.w;
      }
#pragma unroll
      for (int w = 0; w < 4; w++) {
        mma_m16n8k16(o[c][w], __byte_perm(words[0][w], words[1][w], 0x5410),
                     __byte_perm(words[0][w], words[1][w], 0x7632), __byte_perm(words[2][w], words[3][w], 0x5410),
                     __byte_perm(words[2][w], words[3][w], 0x7632), weight[0], weight[1]);
      }
    }
    if (i + kValueSlots < kWarpBlocks && used[(i + kValueSlots) % kWarpBlocks]) load_values(i + kValueSlots);
  }
  sum += __shfl_xor_sync(~0u, sum, 1);
  sum += __shfl_xor_sync(~0u, sum, 2);

  // ---- The warps' sums, in order of the warps.
  float* warp_values = reinterpret_cast<float*>(dynamic_shared);
  if (shape.fresh_separate) {
    warp_values += shape.fresh_capacity * D;  // 2 D halves a position
  } else {
    __syncthreads();
  }
  if (warp < blocks) {
    if (t == 0) {
      warp_maximum[warp][g] = maximum;
      warp_sum[warp][g] = sum;
    }
#pragma unroll
    for (int x = 0; x < 2; x++) {
      if (2 * t + x < queries) {
        float* to = warp_values + (warp * queries + 2 * t + x) * D + 8 * g;
#pragma unroll
        for (int c = 0; c < kValueChunks; c++) {
          *reinterpret_cast<float4*>(to + 64 * c) = make_float4(o[c][0][x], o[c][0][x + 2], o[c][1][x], o[c][1][x + 2]);
          *reinterpret_cast<float4*>(to + 64 * c + 4) =
              make_float4(o[c][2][x], o[c][2][x + 2], o[c][3][x], o[c][3][x + 2]);
        }
      }
    }
  }
  __syncthreads();
  const int active = min(kWarps, blocks);  // of them, a warp that the window left nothing has weight zero
  const int first_split = low / kSplitPositions;
  const int row_splits = position / kSplitPositions + 1 - first_split;
  const int first_head = kv_head * shape.group + first_query;
  const auto write_out = [&](int head, int element, const Sums& total) {
    const float inverse = 1.0f / total.sum;
    *reinterpret_cast<__half2*>(a.out + static_cast<int64_t>(row) * a.out_stride + head * head_dim + element) =
        __floats2half2_rn(total.values.x * inverse, total.values.y * inverse);
  };
  const Partials partials(a, shape.splits);
  const auto write_partial = [&](int head, int slot, int element, const Sums& total) {
    const int64_t index = (static_cast<int64_t>(row) * a.heads + head) * partials.slots + slot;
    *reinterpret_cast<float2*>(partials.values + index * head_dim + element) = total.values;
    if (element == 0) partials.statistics[index] = make_float2(total.maximum, total.sum);
  };
  for (int i = threadIdx.x; i < queries * half; i += kThreads) {
    const int query = i / half, element = 2 * (i % half);
    Sums total{{0.0f, 0.0f}, -INFINITY, 0.0f};
    for (int w = 0; w < active; w++) total.maximum = fmaxf(total.maximum, warp_maximum[w][query]);
    for (int w = 0; w < active; w++) {
      const float weight = exp2_approximate(warp_maximum[w][query] - total.maximum);
      const float2 values = *reinterpret_cast<const float2*>(warp_values + (w * queries + query) * D + element);
      total.sum = fmaf(weight, warp_sum[w][query], total.sum);
      total.values.x = fmaf(weight, values.x, total.values.x);
      total.values.y = fmaf(weight, values.y, total.values.y);
    }
    if (row_splits == 1) {
      write_out(first_head + query, element, total);
    } else {
      write_partial(first_head + query, split - first_split, element, total);
    }
  }
  if (row_splits == 1) return;

  // ---- Splits, 32 at a time, then those sums.
  const int merges = merges_of(row_splits), bucket_merges = merges_of(shape.splits);
  unsigned* counters = a.counters + static_cast<int64_t>(row * gridDim.x + tile) * (1 + bucket_merges);
  const auto merge_all = [&](int first_slot, int count, int to_slot) {
    for (int i = threadIdx.x; i < queries * half; i += kThreads) {
      const int head = first_head + i / half, element = 2 * (i % half);
      const int64_t index = (static_cast<int64_t>(row) * a.heads + head) * partials.slots + first_slot;
      const Sums total =
          merge(partials.values + index * head_dim + element, partials.statistics + index, count, head_dim);
      if (to_slot < 0) {
        write_out(head, element, total);
      } else {
        write_partial(head, to_slot, element, total);
      }
    }
  };
  const int my_merge = (split - first_split) / kMergeSplits;
  const int members = min(kMergeSplits, row_splits - my_merge * kMergeSplits);
  if (!last_to_arrive(counters + 1 + my_merge, members)) return;
  merge_all(my_merge * kMergeSplits, members, merges == 1 ? -1 : shape.splits + my_merge);
  if (merges == 1 || !last_to_arrive(counters, merges)) return;
  merge_all(shape.splits, merges, -1);
}

template <int D, bool kExact, int kAhead>
cudaError_t start_with(const AttentionArguments& a, cudaStream_t stream, bool programmatic) {
  DecodeShape shape{};
  shape.group = a.heads / a.kv_heads;
  shape.query_tiles = query_tiles(a);
  shape.splits = splits_of(a);
  shape.query_scale = query_scale_of(a.head_dim);
  shape.appended = a.rows > kFusedRows;
  shape.fresh_separate = a.rows <= kSeparateRows;
  shape.fresh_capacity = shape.appended ? 0 : (a.rows + 3) / 4 * 4;
  if (shape.appended) {
    if (const cudaError_t status = append_kv(a, stream, programmatic); status != cudaSuccess) return status;
  }
  AttentionArguments attend = a;
  if (shape.appended) attend.early = false;  // what older launches wrote is behind the append
  const size_t fresh_bytes = static_cast<size_t>(shape.fresh_capacity) * 2 * D * sizeof(__half);
  const size_t sum_bytes = size_t{decode_warps<D>()} * min(kQueries, shape.group) * D * sizeof(float);
  const size_t bytes = shape.fresh_separate ? fresh_bytes + sum_bytes : max(fresh_bytes, sum_bytes);
  if (bytes > (size_t{36} << 10)) {  // with the static part, above the 48 KiB that need no opt-in
    const cudaError_t status = cudaFuncSetAttribute(
        decode_kernel<D, kExact, kAhead>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
    if (status != cudaSuccess) return status;
  }
  const dim3 grid(a.kv_heads * shape.query_tiles, a.rows, shape.splits);
  return launch(decode_kernel<D, kExact, kAhead>, grid, dim3(32 * decode_warps<D>()), bytes, stream, programmatic,
                attend, shape);
}

template <int D, bool kExact>
cudaError_t start(const AttentionArguments& a, cudaStream_t stream, bool programmatic) {
  if constexpr (kExact) {
    int device = 0, processors = 0;
    if (const cudaError_t status = cudaGetDevice(&device); status != cudaSuccess) return status;
    const cudaError_t status = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
    if (status != cudaSuccess) return status;
    const int64_t ctas = int64_t{a.kv_heads} * query_tiles(a) * a.rows * splits_of(a);
    if (D == 64 || ctas <= processors) {
      return start_with<D, kExact, kSplitBlocks / decode_warps<D>()>(a, stream, programmatic);
    }
  }
  return start_with<D, kExact, 1>(a, stream, programmatic);
}

}  // namespace

size_t attention_partials_bytes(const AttentionArguments& a) {
  const int splits = splits_of(a);
  if (splits <= 1) return 0;
  return static_cast<size_t>(a.rows) * a.heads * (splits + merges_of(splits)) * (a.head_dim + 2) * sizeof(float);
}

size_t attention_counters(const AttentionArguments& a) {
  return static_cast<size_t>(a.rows) * a.kv_heads * query_tiles(a) * (1 + merges_of(splits_of(a)));
}

cudaError_t attention_decode(const AttentionArguments& a, cudaStream_t stream, bool programmatic) {
  if (a.rows == 0) return cudaSuccess;
  if (a.head_dim < 2 || a.head_dim > 256 || a.head_dim % 2 != 0 || a.kv_heads < 1 || a.heads % a.kv_heads != 0) {
    return cudaErrorInvalidValue;
  }
  if (a.head_dim == 64) return start<64, true>(a, stream, programmatic);
  if (a.head_dim == 128) return start<128, true>(a, stream, programmatic);
  if (a.head_dim < 64) return start<64, false>(a, stream, programmatic);
  if (a.head_dim < 128) return start<128, false>(a, stream, programmatic);
  return start<256, false>(a, stream, programmatic);
}

}  // namespace millrace::cuda
