#pragma once
// Attention over the paged KV cache (layout in backend.h), grouped queries, causal: row r sees positions
// 0..positions[r] of its sequence, or the last `window` of them.
//
// Positions are taken in spans of 256. Within a span: all scores, their maximum, exponentials, the sum of 16 lanes
// and the weighted values, in ascending order of position; spans are folded in ascending order. So the order depends
// on the row's own position alone, whether rows share a tile of work, spans are spread over threads, or a row is alone.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "core/thread_pool.h"
#include "model/kv_type.h"

namespace millrace {

struct AttentionCall {
  int rows = 0;
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  bool latent = false;           // keys of one head alone are there, for all kv_heads, and are the values too
  double scale = 0;              // of scores; 0: 1 / sqrt(head_dim)
  float cap = 0;                 // of scores: cap * tanh(score / cap); 0: none
  const float* sinks = nullptr;  // [heads]: a score more that every row sees, of a value of zeros; null: none
  int window = 0;                // a row at position p sees positions greater than p - window; 0: all
  const float* q = nullptr;      // [rows, heads, head_dim] after rope
  int64_t q_stride = 0;          // floats from row to row
  float* out = nullptr;          // [rows, heads, head_dim]
  int64_t out_stride = 0;
  std::span<const int32_t> positions;     // [rows]
  std::span<const int32_t> sequences;     // [rows]
  std::span<const int32_t> block_tables;  // [sequences, block_table_stride]
  int block_table_stride = 0;
  KvType type = KvType::f16;
  const std::byte* kv = nullptr;  // block 0 of the layer
  size_t block_bytes = 0;
};

// Working memory; grows to the largest call, then stays.
class AttentionScratch {
 public:
  AttentionScratch();
  ~AttentionScratch();
  struct Data;
  Data& data() { return *data_; }

 private:
  std::unique_ptr<Data> data_;
};

// Uses the instruction set that linear.h's selected_kernels() names.
void attention(const AttentionCall& call, ThreadPool& pool, AttentionScratch& scratch);

}  // namespace millrace
