// The attention kernels over Vec, whichever vector_*.h was included before. Included once by each attention_*.cc, in
// whose anonymous namespace it stays: the same inline function compiled for two instruction sets must never meet at
// the linker.
#include "backend/cpu/attention_kernels.h"

namespace millrace {
namespace {

constexpr int kBlock = kAttentionBlock;
constexpr int kPrefetchDistance = 2;  // blocks ahead: twice as fast on long contexts as without
static_assert(kBlock == 16 && kAttentionLanes == 16, "a block's scores are one vector");

// 2^x for x <= 0, relative error < 2e-7; 0 below -125. Split into integer and fraction by adding 1.5 * 2^23, then a
// polynomial on [-1/2, 1/2] (Taylor's of degree 7: the remainder is 5e-10).
inline Vec exp2_negative(const Vec& x_any) {
  const Vec x = vec_max(vec_set(-126.0f), x_any);
  const Vec magic = vec_set(12582912.0f);
  const Vec shifted = vec_add(x, magic);
  const Vec f = vec_sub(x, vec_sub(shifted, magic));
  Vec p = vec_set(1.52527338e-5f);
  p = vec_multiply_add(p, f, vec_set(1.54035304e-4f));
  p = vec_multiply_add(p, f, vec_set(1.33335581e-3f));
  p = vec_multiply_add(p, f, vec_set(9.61812911e-3f));
  p = vec_multiply_add(p, f, vec_set(5.55041087e-2f));
  p = vec_multiply_add(p, f, vec_set(2.40226507e-1f));
  p = vec_multiply_add(p, f, vec_set(6.93147181e-1f));
  p = vec_multiply_add(p, f, vec_set(1.0f));
  return vec_zero_if_less(x, vec_set(-125.0f), vec_scale(p, shifted));
}

inline float exp2_negative(float x) {
  float lanes[16];
  vec_store(lanes, exp2_negative(vec_set(x)));
  return lanes[0];
}

inline Vec load_stored(const uint16_t* source) {
  return vec_load_half(source);
}
inline Vec load_stored(const uint8_t* source) {
  return vec_load_q8(source);
}

// `count` positions to [count, padded_dim], zero beyond head_dim. Of 8 bits, each times its scale.
template <class Stored>
void widen_rows(const Stored* source, const Stored* next, const float* scales, int head_dim, int padded_dim, int count,
                float* destination) {
  constexpr bool kScaled = sizeof(Stored) == 1;
  constexpr int kLine = 64 / sizeof(Stored);
  for (int position = 0; position < count; position++, source += head_dim, next += head_dim) {
    float* row = destination + position * padded_dim;
    const Vec scale = vec_set(kScaled ? scales[position] : 1.0f);
    const auto put = [&](int i, const Vec& v) { vec_store(row + i, kScaled ? vec_mul(v, scale) : v); };
    int i = 0;
    for (; i + 16 <= head_dim; i += 16) {
      if (i % kLine == 0) __builtin_prefetch(next + i);
      put(i, load_stored(source + i));
    }
    if (i == head_dim) continue;
    Stored tail[16] = {};
    for (int j = 0; i + j < head_dim; j++) tail[j] = source[i + j];
    put(i, load_stored(tail));
    for (int j = head_dim; j < padded_dim; j++) row[j] = 0.0f;
  }
}

// Widens `count` positions of a block to [16, padded_dim], zero elsewhere. Blocks lie scattered over the cache, too
// short for the processor's own prefetching to get up to speed: `next` is the block wanted after this one.
void widen_block(const AttentionSpan& task, const std::byte* source, const std::byte* next, int count) {
  const int head_dim = task.head_dim, padded_dim = task.padded_dim;
  if (task.type == KvType::q8) {
    const auto* scales = reinterpret_cast<const float*>(source + kv_scales_at(head_dim));
    __builtin_prefetch(next + kv_scales_at(head_dim));
    widen_rows(reinterpret_cast<const uint8_t*>(source), reinterpret_cast<const uint8_t*>(next), scales, head_dim,
               padded_dim, count, task.block);
  } else {
    widen_rows(reinterpret_cast<const uint16_t*>(source), reinterpret_cast<const uint16_t*>(next), nullptr, head_dim,
               padded_dim, count, task.block);
  }
  const Vec zero = vec_set(0.0f);
  for (int i = count * padded_dim; i < kBlock * padded_dim; i += 16) vec_store(task.block + i, zero);
}

// Scores of Q queries with P positions: each a sum over head_dim in sixteen lanes, then vec_sum's tree.
template <int Q, int P>
inline void score_tile(const float* queries, const float* keys, int padded_dim, float* scores) {
  Vec sums[Q * P];
  for (int i = 0; i < Q * P; i++) sums[i] = vec_set(0.0f);
  for (int d = 0; d < padded_dim; d += 16) {
    Vec k[P];
    for (int p = 0; p < P; p++) k[p] = vec_load(keys + p * padded_dim + d);
    for (int q = 0; q < Q; q++) {
      const Vec query = vec_load(queries + q * padded_dim + d);
      for (int p = 0; p < P; p++) {
        sums[p * Q + q] = vec_multiply_add(query, k[p], sums[p * Q + q]);
      }
    }
  }
#if defined(MILLRACE_SUM_SIXTEEN)
  if constexpr (Q == 4 && P == 4) {
    const Vec all = vec_sum_sixteen(sums);  // lane 4 q + p
    for (int q = 0; q < 4; q++) {
      _mm_storeu_ps(scores + q * kAttentionSpan, q == 0   ? _mm512_castps512_ps128(all)
                                                 : q == 1 ? _mm512_extractf32x4_ps(all, 1)
                                                 : q == 2 ? _mm512_extractf32x4_ps(all, 2)
                                                          : _mm512_extractf32x4_ps(all, 3));
    }
    return;
  }
#endif
  for (int q = 0; q < Q; q++) {
    for (int p = 0; p < P; p++) scores[q * kAttentionSpan + p] = vec_sum(sums[p * Q + q]);
  }
}

// One query with a whole block.
inline void score_row(const float* query, const float* keys, int padded_dim, float* scores) {
#if defined(MILLRACE_SUM_SIXTEEN)
  Vec sums[16];
  for (int p = 0; p < 16; p++) sums[p] = vec_set(0.0f);
  for (int d = 0; d < padded_dim; d += 16) {
    const Vec q = vec_load(query + d);
    for (int p = 0; p < 16; p++) {
      // Position p's sum in the slot that vec_sum_sixteen puts into lane p.
      const int slot = 4 * (p % 4) + p / 4;
      sums[slot] = vec_multiply_add(q, vec_load(keys + p * padded_dim + d), sums[slot]);
    }
  }
  vec_store(scores, vec_sum_sixteen(sums));
#else
  for (int p = 0; p < kBlock; p += 4) score_tile<1, 4>(query, keys + p * padded_dim, padded_dim, scores + p);
#endif
}

void score_block(const AttentionSpan& task, int query_begin, int query_end, float* scores) {
  int q = query_begin;
  for (; q + kTileQueries <= query_end; q += kTileQueries) {
    for (int p = 0; p < kBlock; p += kTilePositions) {
      score_tile<kTileQueries, kTilePositions>(task.queries + q * task.padded_dim, task.block + p * task.padded_dim,
                                               task.padded_dim, scores + q * kAttentionSpan + p);
    }
  }
  for (; q < query_end; q++) {
    score_row(task.queries + q * task.padded_dim, task.block, task.padded_dim, scores + q * kAttentionSpan);
  }
}

inline void cap_scores(float* scores, int first, int visible, float cap) {
  for (int i = first; i < visible; i++) scores[i] = cap * __builtin_tanhf(scores[i]);
}

// Scores [first, visible) of one query become exp2(score - maximum), the rest of the first and last block 0.
inline void weigh(float* scores, int first, int visible, float* maximum, float* sum) {
  const int begin = first / kBlock * kBlock;
  const int padded = (visible + kBlock - 1) / kBlock * kBlock;
  for (int i = begin; i < first; i++) scores[i] = -__builtin_inff();
  for (int i = visible; i < padded; i++) scores[i] = -__builtin_inff();
  Vec highest = vec_load(scores + begin);
  for (int i = begin + 16; i < padded; i += 16) highest = vec_max(highest, vec_load(scores + i));
  const float m = vec_max_lane(highest);
  const Vec subtrahend = vec_set(m);
  Vec total = vec_set(0.0f);
  for (int i = begin; i < padded; i += 16) {
    const Vec p = exp2_negative(vec_sub(vec_load(scores + i), subtrahend));
    vec_store(scores + i, p);
    total = vec_add(total, p);
  }
  *maximum = m;
  *sum = vec_sum(total);
}

// Adds weight * value of `count` positions, ascending, to C vectors of each of Q queries.
template <int Q, int C>
inline void accumulate_tile(const float* weights, const float* values, int padded_dim, int count, float* out) {
  Vec sums[Q * C];
  for (int q = 0; q < Q; q++) {
    for (int c = 0; c < C; c++) sums[q * C + c] = vec_load(out + q * padded_dim + 16 * c);
  }
  for (int p = 0; p < count; p++) {
    Vec v[C];
    for (int c = 0; c < C; c++) v[c] = vec_load(values + p * padded_dim + 16 * c);
    for (int q = 0; q < Q; q++) {
      const Vec weight = vec_set(weights[q * kAttentionSpan + p]);
      for (int c = 0; c < C; c++) sums[q * C + c] = vec_multiply_add(weight, v[c], sums[q * C + c]);
    }
  }
  for (int q = 0; q < Q; q++) {
    for (int c = 0; c < C; c++) vec_store(out + q * padded_dim + 16 * c, sums[q * C + c]);
  }
}

template <int Q>
inline void accumulate_queries(const AttentionSpan& task, int query, int first_position, int count) {
  const float* weights = task.scores + query * kAttentionSpan + first_position;
  const float* values = task.block + first_position % kBlock * task.padded_dim;
  float* out = task.values_out + query * task.padded_dim;
  int d = 0;
  for (; d + 16 * kTileChunks <= task.padded_dim; d += 16 * kTileChunks) {
    accumulate_tile<Q, kTileChunks>(weights, values + d, task.padded_dim, count, out + d);
  }
  for (; d < task.padded_dim; d += 16) {
    accumulate_tile<Q, 1>(weights, values + d, task.padded_dim, count, out + d);
  }
}

// Positions [first_position, first_position + count) of the span, all of the block in task.block.
void accumulate_block(const AttentionSpan& task, int query_begin, int query_end, int first_position, int count) {
  int q = query_begin;
  for (; q + kTileQueries <= query_end; q += kTileQueries) {
    accumulate_queries<kTileQueries>(task, q, first_position, count);
  }
  for (; q < query_end; q++) accumulate_queries<1>(task, q, first_position, count);
}

void attend_span(const AttentionSpan& task) {
  const int queries = task.rows * task.group;
  const int blocks = (task.positions + kBlock - 1) / kBlock;
  int latest = 0, fewest = task.positions;  // seen by all rows: [latest, fewest)
  for (int r = 0; r < task.rows; r++) {
    latest = task.first[r] > latest ? task.first[r] : latest;
    fewest = task.visible[r] < fewest ? task.visible[r] : fewest;
  }

  const auto block = [&](int b) {  // of all keys, then all values
    return b < blocks ? task.keys[b] : b < 2 * blocks ? task.values[b - blocks] : task.values[blocks - 1];
  };
  for (int b = task.begin / kBlock; b < blocks; b++) {
    const int left = task.positions - b * kBlock;
    widen_block(task, block(b), block(b + kPrefetchDistance), left < kBlock ? left : kBlock);
    score_block(task, 0, queries, task.scores + b * kBlock);
  }
  for (int r = 0; r < task.rows; r++) {
    for (int q = r * task.group; q < (r + 1) * task.group; q++) {
      if (task.cap > 0.0f) cap_scores(task.scores + q * kAttentionSpan, task.first[r], task.visible[r], task.cap);
      weigh(task.scores + q * kAttentionSpan, task.first[r], task.visible[r], task.maximum + q, task.sum + q);
    }
  }
  const Vec zero = vec_set(0.0f);
  for (int i = 0; i < queries * task.padded_dim; i += 16) vec_store(task.values_out + i, zero);
  for (int b = task.begin / kBlock; b < blocks; b++) {
    const int first = b * kBlock;
    const int left = task.positions - first;
    widen_block(task, block(blocks + b), block(blocks + b + kPrefetchDistance), left < kBlock ? left : kBlock);
    if (latest <= first && fewest - first >= kBlock) {
      accumulate_block(task, 0, queries, first, kBlock);
      continue;
    }
    // Rows begin or end in this block or beside it: each takes the positions that it sees, no weights of zero beyond.
    for (int r = 0; r < task.rows; r++) {
      const int from = task.first[r] > first ? task.first[r] : first;
      const int seen = (task.visible[r] < first + kBlock ? task.visible[r] : first + kBlock) - from;
      if (seen > 0) accumulate_block(task, r * task.group, (r + 1) * task.group, from, seen);
    }
  }
}

void fold_spans(const AttentionPartial& into, const AttentionPartial& next, int padded_dim) {
  const float highest = *next.maximum > *into.maximum ? *next.maximum : *into.maximum;
  const float a = exp2_negative(*into.maximum - highest);
  const float b = exp2_negative(*next.maximum - highest);
  const Vec scale_a = vec_set(a), scale_b = vec_set(b);
  for (int d = 0; d < padded_dim; d += 16) {
    const Vec next_part = vec_mul(vec_load(next.values + d), scale_b);
    vec_store(into.values + d, vec_multiply_add(vec_load(into.values + d), scale_a, next_part));
  }
  *into.sum = *into.sum * a + *next.sum * b;
  *into.maximum = highest;
}

}  // namespace
}  // namespace millrace
