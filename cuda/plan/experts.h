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
#include "model/program.h"
#include "model/slab_layout.h"

namespace millrace::cuda {

inline constexpr int kExpertParts = kDecodeWarps;
// Rows that chose an expert, in one tile: where there are no more than the first, and otherwise, where shared memory
// suffices for that.
inline constexpr int kFewRows = 8, kManyRows = 32;
// What experts leave to be added up, at most, where it is more than one row: of more rows, some at a time.
inline constexpr int64_t kMostExpertBytes = int64_t{64} << 20;
// Rows whose experts are listed by the launch that routes them.
inline constexpr int kListedRows = 32;

// The experts of a unit, all alike: expert e begins first + e * stride bytes into the slab, and the offsets of its
// linears count from there.
struct ExpertsLayout {
  size_t first = 0, stride = 0;
  LinearLayout gate_up, down;
};
// None where two experts lie otherwise: in another code, or by a permutation that others do not have.
std::optional<ExpertsLayout> experts_layout(const ExpertsOp& op, const UnitLayout& unit);

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
  LaunchShape launch;        // grid: row blocks by tiles
};
// tile_rows: kFewRows or kManyRows. None where the device has too little shared memory for one stage.
std::optional<ExpertsPlan> plan_experts(const DeviceFacts& device, const MatrixLayout& matrix, int tile_rows, int rows,
                                        int tiles);
// Of experts that more than kFewRows rows chose, the rows of a tile: kManyRows, or kFewRows; 0: not even these fit.
int many_rows(const DeviceFacts& device, const ExpertsLayout& experts);

}  // namespace millrace::cuda
