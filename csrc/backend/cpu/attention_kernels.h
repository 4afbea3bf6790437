#pragma once
// What attention.cc asks of an instruction set. One table each in attention_{avx512,avx2,plain}.cc.
#include <cstddef>
#include <cstdint>

#include "model/kv_type.h"

namespace millrace {

inline constexpr int kAttentionBlock = 16;  // positions of a KV block
inline constexpr int kAttentionSpan = 256;  // positions
inline constexpr int kAttentionSpanBlocks = kAttentionSpan / kAttentionBlock;
inline constexpr int kAttentionLanes = 16;  // head_dim is padded to a multiple of it in working memory

// One span of positions for `rows` rows of one sequence and the `group` query heads of one key head. All arrays of
// queries are [rows * group], rows outermost.
struct AttentionSpan {
  int rows = 0;
  int group = 0;
  int head_dim = 0;
  int padded_dim = 0;
  KvType type = KvType::f16;
  // [queries, padded_dim], zero in the padding; scaled so that scores are powers of two or, with a cap, that tanh takes
  // them.
  const float* queries = nullptr;
  float cap = 0;                 // times log2(e); 0: none
  const int* first = nullptr;    // [rows], the first position of this span that a row sees, < visible
  const int* visible = nullptr;  // [rows], one more than the last, 1..kAttentionSpan
  int begin = 0;                 // the smallest first, down to a whole block
  int positions = 0;             // the largest visible
  const std::byte* keys[kAttentionSpanBlocks] = {};    // a head's part of each block: model/kv_type.h
  const std::byte* values[kAttentionSpanBlocks] = {};  // the same; blocks before `begin` are not read
  float* block = nullptr;                              // work: [16, padded_dim]
  float* scores = nullptr;                             // work: [queries, kAttentionSpan]
  float* maximum = nullptr;                            // out: [queries], highest score
  float* sum = nullptr;                                // out: [queries], sum of exp2(score - maximum)
  float* values_out = nullptr;  // out: [queries, padded_dim], sum of exp2(score - maximum) * value
};

// A fold of spans of one query.
struct AttentionPartial {
  float* maximum = nullptr;
  float* sum = nullptr;
  float* values = nullptr;  // [padded_dim]
};

struct AttentionKernels {
  void (*span)(const AttentionSpan& task);
  // Folds `next` (later positions) into `into`.
  void (*fold)(const AttentionPartial& into, const AttentionPartial& next, int padded_dim);
};

extern const AttentionKernels attention_kernels_plain;
#if defined(__x86_64__)
extern const AttentionKernels attention_kernels_avx2;
extern const AttentionKernels attention_kernels_avx512;
#endif

}  // namespace millrace
