#pragma once
// Which experts answer which rows of a mixture, and the rows of each expert side by side.
#include "cuda/moe/experts.h"

namespace millrace::cuda {

struct RouteArguments {
  const float* logits = nullptr;  // [rows, op.experts]
  int rows = 0;
  RouteOp op;
  Weights weights;
  int64_t bias_offset = -1;            // float32 [experts] in the slab; -1: none
  float* routes = nullptr;             // [rows, 2 * top_k]
  const int32_t* positions = nullptr;  // negative: a row of padding, which no expert answers
  uint16_t* log = nullptr;             // [experts], or null: rows that chose each are added here, where it lists itself
  // Or null: [drawn_entries], each drawn_stride after the one before, the choices of DrawnRoutes.
  const uint16_t* drawn = nullptr;
  int drawn_entries = 0, drawn_stride = 0;
  const int32_t* sequences = nullptr;  // of drawn
  uint16_t* chosen = nullptr;          // or null: [rows, chosen_stride], the experts of each row
  int chosen_stride = 0;
};
// Of rows whose logits are still to be made: the norm of x, the router's linear of it, and what route() and its list
// do, in one launch. The same bits.
struct RouterArguments {
  const float* x = nullptr;  // [rows, x_stride]
  int64_t x_stride = 0;
  size_t norm_offset = 0;
  float epsilon = 0;
  MatrixLayout matrix;       // [op.experts, width of x]
  int64_t bias_offset = -1;  // of the linear: float32 [op.experts]; -1: none
  __half* normed = nullptr;  // [rows, normed_stride]: what the experts read
  int normed_stride = 0;     // a multiple of 8
  RouteArguments route;      // without logits
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
  uint8_t in_ram[kMost];
};
// in_ram: beside the table, 1: the address is in RAM.
cudaError_t set_experts(const std::byte** table, uint8_t* in_ram, const ExpertChanges& changes, cudaStream_t stream);

// More frames behind those offered before, or anew.
struct OfferedFrames {
  static constexpr int kMost = 128;
  int count = 0;
  bool anew = false;
  std::byte* frames[kMost];
};
cudaError_t offer_frames(FrameOffers* offers, FrameLog* log, const OfferedFrames& frames, cudaStream_t stream);

}  // namespace millrace::cuda
