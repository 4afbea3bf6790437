#pragma once
// Mixtures of experts on the GPU: which experts answer which rows (route.h), the rows of each expert side by side (its
// list), the experts' linears, each reading its weights once for all of a tile's rows (experts), and what they add up
// to (combine). A row's bits depend on the row and on its experts alone.
//
// A place is a row's choice: place row * top_k + rank.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/linear.h"
#include "cuda/plan/experts.h"
#include "model/program.h"

namespace millrace::cuda {

// Frames of device memory for experts that are read in RAM, in a ring: those offered from `taken` on are free. Whoever
// makes a list gives them to experts that it finds in RAM, whose kernels then write there what they read, so that it
// crosses the link once; from the next list on the expert is there.
struct FrameOffers {
  static constexpr uint32_t kRing = 512;
  uint32_t given = 0;  // since the beginning
  std::byte* frames[kRing] = {};
};
struct FrameLog {
  uint32_t taken = 0;                        // since the beginning
  int32_t experts[FrameOffers::kRing] = {};  // numbers among all that lie apart
};
struct ExpertFrames {
  const std::byte** addresses = nullptr;  // [experts] of the unit
  uint8_t* in_ram = nullptr;              // likewise
  const FrameOffers* offers = nullptr;    // null: none are given
  FrameLog* log = nullptr;
  int first = 0;  // number of the unit's first expert
};
// What kernels of a list copy while they read it.
struct ExpertFill {
  const std::byte* from = nullptr;
  std::byte* to = nullptr;
};
inline constexpr int kMostFills = 128;  // of a list

// The experts that any row chose, and who chose them, in device memory.
struct ExpertList {
  int32_t* counts = nullptr;  // [3]: tiles of few rows, tiles of many, places
  // {expert, first of its places in `places`, how many (<= few_rows), 0 or an expert that is read from
  // fills[|w| - 1].from and, where w > 0, copied}
  int4* few = nullptr;
  int4* many = nullptr;         // the same, of experts that more rows than few_rows chose: up to many_rows each
  int32_t* places = nullptr;    // by expert
  int many_rows = kManyRows;    // or kFewRows; of prompts as plan_prompt() has it
  int few_rows = kFewRows;      // of prompts 0: all tiles are in `many`
  ExpertFill* fills = nullptr;  // [kMostFills], where frames are given
  ExpertFrames frames;
};

enum class ExpertEpilogue : uint8_t {
  store,    // y[place, n] = v, float32
  silu,     // of an interleaved gate_up: act[place, i] = half(silu(gate_i) * up_i)
  clamped,  // the same of clamped_swiglu
};

// out[row, :] = sum over ranks, in their order, of weight * y[row * top_k + rank, :]; zero of padding. With `adds`
// out += scale * that, as add_scaled() would, to the bit.
struct CombineArguments {
  const float* y = nullptr;  // [rows * top_k, width]
  const float* routes = nullptr;
  int rows = 0, top_k = 0, width = 0;
  const int32_t* positions = nullptr;
  float* out = nullptr;  // [rows, out_stride]
  int out_stride = 0;
  bool adds = false;
  float scale = 1;
};

struct ExpertArguments {
  // The slab of weights.unit has the experts, each `stride` after the one before; or they lie where `addresses` say.
  Weights weights;
  size_t first = 0, stride = 0;
  const std::byte* const* addresses = nullptr;  // [experts] on the device
  MatrixLayout matrix;                          // offsets from an expert's first byte
  int64_t bias_offset = -1;                     // float32 [matrix.n], likewise; -1: none
  int experts = 0, rows = 0, top_k = 0;
  ExpertList list;
  // The list was complete before the predecessor in the stream began.
  bool listed = false;
  const __half* x = nullptr;  // [rows or places, x_stride]
  int x_stride = 0;
  bool x_of_places = false;
  ExpertEpilogue epilogue = ExpertEpilogue::store;
  float* y = nullptr;  // [places, y_stride]
  int y_stride = 0;
  __half* act = nullptr;  // [places, act_stride]
  int act_stride = 0, features = 0;
  float alpha = 1, limit = 0;  // of clamped
  // With `store`, where combines_itself(): in the place of y.
  const CombineArguments* combine = nullptr;
};
// One linear of all listed experts.
cudaError_t experts_linear(const ExpertArguments& arguments, cudaStream_t stream, bool programmatic);

// Of a prompt's rows, where computes_prompts(): x [rows, x_stride] of every place in the list's order, gathered
// [places, x_stride]. Its list has few_rows 0.
cudaError_t gather_places(const __half* x, int x_stride, int top_k, int places, const ExpertList& list,
                          __half* gathered, cudaStream_t stream, bool programmatic);
// One linear of all listed experts, of a prompt's rows: x [places, x_stride] and act are in the list's order, y
// [places, y_stride] in that of places. A row's bits are others than experts_linear()'s, and depend on the row and the
// matrix alone.
cudaError_t experts_of_prompt(const ExpertArguments& arguments, cudaStream_t stream, bool programmatic);

// What gate and up are to be, where they were stored: y float32 [places, y_stride], gate features before up features,
// or interleaved. Places of padding become anything.
cudaError_t experts_glu(const float* y, int y_stride, bool interleaved, int places, int features, const ExpertsOp& op,
                        __half* act, int act_stride, cudaStream_t stream, bool programmatic);

cudaError_t combine_experts(const CombineArguments& arguments, cudaStream_t stream, bool programmatic);

}  // namespace millrace::cuda
