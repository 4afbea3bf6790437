#pragma once
// Plans of a mixture's launches: where an expert's weights lie, how the rows that chose it are cut into tiles, and how
// much shared memory a tile takes.
//
// The order of sums, from the matrix alone: the chunks of a row block (plan/decode.h) are cut into kExpertParts runs of
// neighbours, a warp's each; a run's chunks are added in order, then the runs.
#include <cstdint>
#include <optional>

#include "cuda/plan/decode.h"
#include "cuda/plan/device.h"
#include "cuda/plan/prefill.h"
#include "model/experts_layout.h"

namespace millrace::cuda {

inline constexpr int kExpertParts = kDecodeWarps;
// Rows that chose an expert, in one tile: where there are no more than the first, and otherwise, where shared memory
// suffices for that.
inline constexpr int kFewRows = 8, kManyRows = 32;
// What experts leave to be added up, at most, where it is more than one row: of more rows, some at a time.
inline constexpr int64_t kMostExpertBytes = int64_t{128} << 20;
// Rows whose experts are listed by the launch that routes them.
inline constexpr int kListedRows = 32;

// Gate and up of an expert leave their linear as one activation.
bool fused_expert_glu(const LinearLayout& gate_up);

// Rows whose experts are computed at once.
int expert_rows(int rows, int top_k, int hidden);
// Tiles at most, of so many choices among so many experts.
int few_tiles(int places, int experts);
int many_tiles(int places, int experts, int many_rows);

struct ExpertsPlan {
  int chunks = 0, each = 0;  // of a row block; of a run
  int stages = 0;            // of a warp's ring, weights and x
  int x_rows = 0;            // of a stage of x
  int sums_at = 0;           // where the tiles of a row block meet in shared memory; 0: they do not
  LaunchShape launch;        // grid: row blocks by tiles; where tiles meet, tiles by row blocks
};
// tile_rows: kFewRows or kManyRows. `meet`: as combines_itself(). None where the device has too little shared memory
// for one stage.
std::optional<ExpertsPlan> plan_experts(const DeviceFacts& device, const MatrixLayout& matrix, int tile_rows, int rows,
                                        int tiles, bool meet = false);
// Of one row the launch of its experts' last linear adds their results up itself: the thread blocks of a row block are
// a cluster.
bool combines_itself(const DeviceFacts& device, int rows, int top_k);

// Whether a prompt's rows have launches of their own (linear_prefill_sm90.cuh): experts whose rows lie side by side,
// tile by tile on wgmma. The order of sums is theirs: that of the stored input features.
bool computes_prompts(const DeviceFacts& device, const ExpertsLayout& experts);
// Rows of a tile, of so many choices among so many experts; and tiles at most.
int prompt_tile_rows(int places, int experts);
int prompt_tiles(int places, int experts, int tile_rows);
// Of one linear. None where the device has too little shared memory.
std::optional<PrefillPlan> plan_prompt(const DeviceFacts& device, const MatrixLayout& matrix, int places, int experts);

// The launch that norms few rows, multiplies them with the router and routes them (moe/router.cu): a cluster, each
// thread block with 16 of the router's features.
inline constexpr int kRouterRows = 2;
inline constexpr int kRouterBlocks = 8;  // at most
struct RouterPlan {
  // The order of sums is that of plan_decode.
  int splits = 0, step = 0, rounds = 0, sum_warps = 0;
  // From the beginning of shared memory: the normed rows, their sums of squares, a barrier, the warps' sums, logits,
  // and what routing a row takes.
  int squares_at = 0, barrier_at = 0, sums_at = 0, logits_at = 0;
  LaunchShape launch;
};
// room_bytes: that routing a row takes. None where it takes another launch for each.
std::optional<RouterPlan> plan_router(const DeviceFacts& device, const MatrixLayout& router, int rows, int room_bytes);
// Of experts that more than kFewRows rows chose, the rows of a tile: kManyRows, or kFewRows; 0: not even these fit.
int many_rows(const DeviceFacts& device, const ExpertsLayout& experts);

}  // namespace millrace::cuda
