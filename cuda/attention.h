#pragma once
// Rope, KV append and attention over the paged cache (layout in csrc/backend/backend.h), for decode rows and for
// prefill chunks. A row's reduction order depends on its own position and on its kind alone.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/linear.h"
#include "model/kv_type.h"

namespace millrace::cuda {

struct AttentionArguments {
  int rows = 0;  // of this kind
  int heads = 0, kv_heads = 0, head_dim = 0;
  // [rows, (heads + 2 kv_heads) * head_dim], before rope; with reads_only [rows, heads * head_dim]
  const float* qkv = nullptr;
  const float* rope = nullptr;            // [max_context, head_dim]: cos of head_dim / 2 angles, then sin
  const int32_t* positions = nullptr;     // [rows] on the device; < 0: a row of padding, which does nothing
  const int32_t* sequences = nullptr;     // [rows], index into block_tables
  const int32_t* block_tables = nullptr;  // [sequences, block_table_stride]
  int block_table_stride = 0;
  KvType kv_type = KvType::f16;   // how blocks are laid out: csrc/model/kv_type.h
  __half* kv = nullptr;           // this layer's blocks, of either type
  int64_t kv_block_elements = 0;  // bytes of a block / 2
  __half* out = nullptr;          // [rows, out_stride], heads * head_dim of each
  int out_stride = 0;             // a multiple of 8
  double scale = 0;               // of scores; 0: 1 / sqrt(head_dim)
  float cap = 0;                  // of scores: cap * tanh(score / cap); 0: none
  bool reads_only = false;        // the rows' own keys and values are in the cache: nothing is appended
  // float32 [heads] in the slab of weights.unit: scores of a position that every row sees and that has no value; -1:
  // none.
  Weights weights;
  int64_t sinks_offset = -1;
  // Decode, where attention_norms_heads(): query and key heads are normed as norm_heads would, to the bit, by float32
  // [head_dim] in that slab.
  bool norms = false;
  size_t query_norm_offset = 0, key_norm_offset = 0;
  float norm_epsilon = 0;
  int window = 0;                // a row at position p sees positions greater than p - window; 0: all
  int max_context = 0;           // of the launch's bucket: no position of it is greater or equal
  float* partials = nullptr;     // decode: attention_partials_bytes
  unsigned* counters = nullptr;  // decode: attention_counters, left at zero
  // Decode: positions, sequences, block tables and all keys and values older than this launch's rows were complete
  // before the predecessor in the stream began (as in a graph of one pass, which only adds its own rows), so they may
  // be read before it has ended.
  bool early = false;
};

// Heads of this width: a lane's elements are those that it has in norm_heads.
constexpr bool attention_norms_heads(int head_dim) {
  return head_dim == 64 || head_dim == 128;
}

size_t attention_partials_bytes(const AttentionArguments& arguments);
size_t attention_counters(const AttentionArguments& arguments);

// Ropes q and k, appends k and v of all rows, then attends; rows of one chunk see each other's keys.
// Decode: each row is a sequence's newest token (or draft tokens of one sequence, in order).
cudaError_t attention_decode(const AttentionArguments& arguments, cudaStream_t stream, bool programmatic);
// Prefill: rows of a sequence are consecutive and ascending in position.
cudaError_t attention_prefill(const AttentionArguments& arguments, cudaStream_t stream, bool programmatic);

}  // namespace millrace::cuda
