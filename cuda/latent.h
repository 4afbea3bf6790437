#pragma once
// Latent attention over the paged cache (LatentOp in csrc/model/program.h; DeepSeek-AI 2024, arXiv:2405.04434). A row
// of the cache, [rank + rotary] halves, is key and value of all heads. Four steps: queries go through their head's rows
// of the linear to the space of latents, and the rows' own latents are appended; heads attend there to the rows of the
// cache; parts of long rows are put together; what was found goes through the other rows of the linear to values.
//
// A row's bits depend on its own sequence and position and on its kind: rows of prompts take all positions in one run,
// decode rows in parts, whose size follows from the row's position.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/linear.h"
#include "cuda/plan/latent.h"
#include "model/matrix_layout.h"

namespace millrace::cuda {

struct LatentArguments {
  LatentShape shape;
  int rows = 0;                           // of one kind, any number
  const float* q = nullptr;               // [rows, heads (nope + rotary)], before rope
  const float* latent = nullptr;          // [rows, rank + rotary], before rope
  const float* rope = nullptr;            // [max_context, rotary]: cos of rotary / 2 angles, then sin
  bool interleaved = false;               // neighbours turn together
  const int32_t* positions = nullptr;     // [rows]; < 0: a row of padding, which does nothing
  const int32_t* sequences = nullptr;     // [rows], index into block_tables
  const int32_t* block_tables = nullptr;  // [sequences, block_table_stride]
  int block_table_stride = 0;
  __half* kv = nullptr;           // this layer's blocks
  int64_t kv_block_elements = 0;  // halves a block: 16 (rank + rotary)
  __half* out = nullptr;          // [rows, out_stride], heads * value_dim of each
  int out_stride = 0;
  double scale = 0;     // of scores; 0: 1 / sqrt(nope + rotary)
  Weights weights;      // `matrix` is in the slab of weights.unit
  MatrixLayout matrix;  // [heads (nope + value_dim), rank]
  bool decode = false;
  int max_context = 0;        // of the launch's bucket: no position of it is greater or equal
  __half* queries = nullptr;  // latent_query_bytes
  float* partials = nullptr;  // decode: latent_partial_bytes
};

cudaError_t latent_attention(const LatentArguments& arguments, cudaStream_t stream, bool programmatic);

// Its steps. rows: at most latent_rows().
cudaError_t latent_queries(const LatentArguments& arguments, cudaStream_t stream, bool programmatic);
cudaError_t latent_attend(const LatentArguments& arguments, cudaStream_t stream, bool programmatic);
cudaError_t latent_values(const LatentArguments& arguments, cudaStream_t stream, bool programmatic);

}  // namespace millrace::cuda
