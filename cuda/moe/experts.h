#pragma once
// Mixtures of experts on the GPU: which experts answer which rows (route), the rows of each expert side by side (list),
// the experts' linears, each reading its weights once for all of a tile's rows (experts), and what they add up to
// (combine). A row's bits depend on the row and on its experts alone.
//
// A place is a row's choice: place row * top_k + rank.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/linear.h"
#include "cuda/plan/experts.h"
#include "model/program.h"

namespace millrace::cuda {

// The experts that any row chose, and who chose them, in device memory.
struct ExpertList {
  int32_t* counts = nullptr;  // [2]: tiles of few rows, tiles of many
  int4* few = nullptr;        // {expert, first of its places in `places`, how many (<= kFewRows), 0}
  int4* many = nullptr;       // the same, of experts that more rows than kFewRows chose: up to many_rows each
  int32_t* places = nullptr;  // by expert
  int many_rows = kManyRows;  // or kFewRows
};

struct RouteArguments {
  const float* logits = nullptr;  // [rows, op.experts]
  int rows = 0;
  RouteOp op;
  Weights weights;
  int64_t bias_offset = -1;            // float32 [experts] in the slab; -1: none
  float* routes = nullptr;             // [rows, 2 * top_k]
  const int32_t* positions = nullptr;  // negative: a row of padding, which no expert answers
  uint16_t* log = nullptr;             // [experts], or null: rows that chose each are added here, where it lists itself
};
// Of rows whose logits are still to be made: the norm of x, the router's linear of it, and what route() and its list do,
// in one launch. The same bits.
struct RouterArguments {
  const float* x = nullptr;  // [rows, x_stride]
  int64_t x_stride = 0;
  size_t norm_offset = 0;
  float epsilon = 0;
  MatrixLayout matrix;            // [op.experts, width of x]
  int64_t bias_offset = -1;       // of the linear: float32 [op.experts]; -1: none
  __half* normed = nullptr;       // [rows, normed_stride]: what the experts read
  int normed_stride = 0;          // a multiple of 8
  RouteArguments route;           // without logits
};
// So few rows, a matrix of float16 or bfloat16, a GPU with clusters.
bool routes_itself(const RouterArguments& arguments);
cudaError_t norm_and_route(const RouterArguments& arguments, const ExpertList& list, cudaStream_t stream,
                           bool programmatic);

// Of so few rows the launch that routes them lists their experts too.
bool lists_itself(const RouteOp& op, int rows);
// Writes routes; and the list too where it lists itself.
cudaError_t route(const RouteArguments& arguments, const ExpertList& list, cudaStream_t stream, bool programmatic);
// The list of any number of rows. routes: [rows, 2 * top_k]; log: as above.
cudaError_t list_experts(const float* routes, int rows, int top_k, int experts, const int32_t* positions,
                         const ExpertList& list, uint16_t* log, cudaStream_t stream, bool programmatic);

// Addresses of a device's table of experts that lie apart.
struct ExpertChanges {
  static constexpr int kMost = 64;
  int count = 0;
  int entries[kMost];
  const std::byte* addresses[kMost];
};
cudaError_t set_experts(const std::byte** table, const ExpertChanges& changes, cudaStream_t stream);

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

// What gate and up are to be, where they were stored: y float32 [places, y_stride], gate features before up features,
// or interleaved. Places of padding become anything.
cudaError_t experts_glu(const float* y, int y_stride, bool interleaved, int places, int features, const ExpertsOp& op,
                        __half* act, int act_stride, cudaStream_t stream, bool programmatic);

cudaError_t combine_experts(const CombineArguments& arguments, cudaStream_t stream, bool programmatic);

}  // namespace millrace::cuda
