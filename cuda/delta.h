#pragma once
// What keeps a state in the place of keys and values (ConvOp and DeltaOp in csrc/model/program.h): a causal
// convolution, and the gated delta rule. Rows of a sequence are computed one after the other, by the same sums whatever
// the pass, so a row's bits depend on its sequence alone.
#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/linear.h"
#include "cuda/plan/states.h"
#include "model/program.h"

namespace millrace::cuda {

// Rows of a launch that belong to one sequence, side by side.
struct StateRuns {
  static constexpr int kMost = 128;
  int count = 0;
  bool decode = true;  // decode rows, drafts among them: found on the device, none of these is read
  uint16_t begin[kMost], end[kMost];
};

// Where the rows' sequences have their states.
struct StateArguments {
  int rows = 0;                           // of the launch
  const int32_t* positions = nullptr;     // [rows]; < 0: a row of padding; 0: the first of its sequence
  const int32_t* sequences = nullptr;     // [rows], index into block_tables
  const int32_t* block_tables = nullptr;  // [sequences, block_table_stride]: the first is the state's
  int block_table_stride = 0;             // of decode rows the i-th is what is behind the i-th of a sequence
  float* states = nullptr;                // of the layer, from the operation's part of the first on
  int64_t state_stride = 0;               // floats from one to the next
  Weights weights;                        // vectors lie in the slab of weights.unit
  StateRuns runs;
};

struct ConvArguments {
  StateArguments state;
  const float* x = nullptr;  // [rows, x_stride], the columns
  int64_t x_stride = 0;
  float* out = nullptr;  // [rows, channels]
  int channels = 0, taps = 0;
  size_t weight_offset = 0;  // float32 [channels, taps]
};

struct DeltaArguments {
  StateArguments state;
  const float* x = nullptr;      // [rows, 2 key_width + value_width]
  const float* gates = nullptr;  // [rows, 2 value_heads]
  float* out = nullptr;          // [rows, value_width]
  int key_heads = 0, value_heads = 0, key_dim = 0, value_dim = 0;
  bool in_turn = false;                     // value heads take key heads in turn
  size_t rate_offset = 0, bias_offset = 0;  // float32 [value_heads]
};

cudaError_t convolve(const ConvArguments& arguments, cudaStream_t stream, bool programmatic);
cudaError_t delta_rule(const DeltaArguments& arguments, cudaStream_t stream, bool programmatic);

}  // namespace millrace::cuda
