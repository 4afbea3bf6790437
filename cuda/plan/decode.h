#pragma once
// Plans of linear_decode: which of its three kernels, and how rows, row blocks and shared memory are cut. The kernels
// take their arithmetic of stages and tiles from here.
#include <optional>

#include "cuda/plan/device.h"
#include "model/matrix_layout.h"

namespace millrace::cuda {

inline constexpr int kDecodeRows = 256;       // of a launch, at most
inline constexpr int kGatherInPlaceRows = 8;  // of a permuted matrix, whose thread blocks put x in order themselves
inline constexpr int kSideBySideRows = 8;     // of launches that share x; more are other kernels
inline constexpr int kDecodeWarps = 8;
inline constexpr int kDecodeThreads = 32 * kDecodeWarps;
inline constexpr int kSumsFor = 132;     // SMs of an H100: matrices are split for it, whatever the GPU, as bits follow
inline constexpr int kAloneBytes = 256;  // that a thread block asks for beyond half of an SM, to be alone there

// ---- Chunks: what a warp multiplies at a time.
constexpr int chunk_slices(WeightType type) {
  const int bits = code_of(type).bits;
  return bits == 32 ? 1 : bits == 16 ? 2 : bits == 4 ? 8 : 4;
}
// Whether there are kernels of 16 activation rows, between those of 8 and of 32.
constexpr bool has_tiles_of_16(WeightType type) {
  return type == WeightType::q4 || !code_of(type).grouped();
}
// Slices a group that kernels are made for; any other number goes by 0, where a chunk lies within one group.
constexpr int known_group(int slices) {
  return slices == 2 || slices == 4 || slices == 8 ? slices : 0;
}
constexpr int q4_header_bytes(bool zeros) {
  return kTileN * (zeros ? 3 : 2);
}
// group_slices: a known_group.
constexpr int q4_chunk_bytes(int group_slices, bool zeros) {
  const int group = group_slices == 0 ? 8 : group_slices;
  return 8 / group * (q4_header_bytes(zeros) + group * static_cast<int>(kQ4TileBytes));
}
// Of the grouped codes but q4.
constexpr int group_chunk_bytes(WeightType type, int group_slices, bool zeros) {
  const Code& code = code_of(type);
  const int slices = chunk_slices(type);
  return code.span_bytes() + slices / group_slices * code.header_bytes(zeros) + slices * code.tile_bytes();
}
constexpr int float_tile_bytes(WeightType type) {
  return kTileN * kTileK * (type == WeightType::f32 ? 4 : 2);
}
constexpr int chunk_bytes(WeightType type, int group_slices, bool zeros) {
  if (type == WeightType::q4) return q4_chunk_bytes(group_slices, zeros);
  if (code_of(type).grouped()) return group_chunk_bytes(type, group_slices, zeros);
  return chunk_slices(type) * float_tile_bytes(type);
}
constexpr int chunks_of_group(int slices) {
  return (slices + 7) / 8;
}

// ---- Rows that the first linear of a unit norms itself (norm.cuh).
inline constexpr int kNormThreads = 256;
inline constexpr int kNormVectors = 4;  // of four numbers of a row, that a thread keeps
inline constexpr int kNormSumBytes = 2 * 32;
constexpr bool norm_takes(int width) {
  return width % 4 == 0 && width <= kNormThreads * 4 * kNormVectors;
}
// Bytes of a row of normed x: whole chunks, and 16 against bank conflicts.
constexpr int norm_pitch(int slices) {
  return (slices + 8) * kTileK * 2 + 16;
}

// ---- The portable kernel (linear_decode.cuh): a warp's rings of weights and of x, and what other blocks send.
constexpr int slot_bytes(int chunk_bytes) {  // a stage also carries a warp's sums of 2 x 8 rows
  return chunk_bytes > 4096 ? chunk_bytes : 4096;
}
struct PortableShape {
  int chunk_slices, chunk_bytes;
  int tile_rows;  // 8, 16 or 32
  int x_rows;     // of them, those that there are
  int splits;
  int norm_slices = 0;  // where x is normed in place of the ring: slices of a row

  // A row of a chunk of x is padded by 16 bytes, against bank conflicts.
  static constexpr int x_pitch(int slices) { return slices * kTileK * 2 + 16; }
  constexpr int tiles() const { return tile_rows / 8; }
  // Thread blocks that fit an SM by their registers. (Three of 80 registers with few rows: measured, a third slower.)
  static constexpr int residents_of(int tile_rows) { return tile_rows <= 16 ? 2 : 1; }
  constexpr int residents() const { return residents_of(tile_rows); }
  constexpr int bytes(int stages, int x_stages) const {
    const int rings = stages * (slot_bytes(chunk_bytes) + 8) + x_stages * (x_rows * x_pitch(chunk_slices) + 8);
    const int normed = norm_slices > 0 ? x_rows * norm_pitch(norm_slices) + kNormSumBytes : 0;
    return kDecodeWarps * rings + (splits - 1) * tiles() * 2048 + 8 + normed + 16;
  }
};

// ---- The kernel that shares x among warps (linear_decode_shared_sm90.cu).
inline constexpr int kSharedResidents = 2;  // thread blocks of an SM
inline constexpr int kSharedStages = 4;     // at most
struct SharedShape {
  int chunk_bytes;
  int rows;    // 16 or 32
  int blocks;  // row blocks of a thread block
  int halves;  // warps of a row block's chunk

  constexpr int tiles() const { return rows / 8; }
  constexpr int words() const { return 4 / halves; }  // of a tile's four 16-feature words, a warp's
  constexpr int team_warps() const { return blocks * halves; }
  constexpr int teams() const { return kDecodeWarps / team_warps(); }
  constexpr int panels() const { return 8 * kTileK / 64; }
  constexpr int panel_bytes() const { return rows * 128; }
  constexpr int x_bytes() const { return panels() * panel_bytes(); }
  constexpr int weight_stage() const { return (chunk_bytes + 127) / 128 * 128; }
  constexpr int stage_bytes() const { return teams() * (x_bytes() + blocks * weight_stage()); }
  // Sums: a warp's, in a stage that it has used; the thread block's.
  constexpr int sum_bytes() const { return tiles() * words() * 512; }
  constexpr int output_bytes() const { return team_warps() * sum_bytes(); }
  constexpr int bytes(int stages, int parts) const {  // 1024: alignment
    return stages * (stage_bytes() + teams() * 8) + (parts - 1) * output_bytes() / parts + 8 + 1024;
  }
};

// ---- The wide kernel (linear_decode_wide_sm90.cu).
inline constexpr int kWideStages = 6;  // at most
inline constexpr int kWideParts = 4;   // at most, that k is cut into
struct WideShape {
  int chunk_bytes;
  int blocks;  // row blocks of a thread block
  int parts;   // of k, of a thread block; a warpgroup for each of each row block
  int rows;

  static constexpr int kPanels = 8 * kTileK / 64;
  static constexpr int threads_of(int groups) { return 128 * (groups + 1); }  // the last warpgroup copies
  constexpr int groups() const { return blocks * parts; }
  constexpr int consumers() const { return 128 * groups(); }
  // Slices that are multiplied at once: as many operands as registers hold.
  constexpr int batch() const { return groups() == 4 ? 4 : 8; }
  constexpr int tiles() const { return rows / 8; }
  constexpr int x_bytes() const { return kPanels * rows * 128; }
  constexpr int weight_stage() const { return (chunk_bytes + 127) / 128 * 128; }
  constexpr int stage() const { return parts * (x_bytes() + blocks * weight_stage()); }
  constexpr int group_totals() const { return tiles() * 2048; }  // bytes of a warpgroup's sums
  constexpr int bytes(int stages) const {                        // 1024: alignment
    return stages * stage() + groups() * group_totals() + 2 * parts * kWideStages * 8 + 1024;
  }
};

enum class DecodeKernel : unsigned char { portable, shared, wide };

// What benchmarks choose in the plan's place; zeros: the plan's own choice. No bit depends on it, except on `splits`.
struct DecodeTuning {
  int splits = 0;
  int stripes = 0;
  int tile_rows = 0;    // of the portable kernel, which then takes all rows
  int stages = 0;       // at most
  int residents = 0;    // thread blocks that shared memory lets onto an SM
  int wide_from = 0;    // rows from which the wide kernel takes over
  int shared_from = 0;  // rows from which the kernel that shares x does
};

struct DecodePlan {
  DecodeKernel kernel = DecodeKernel::portable;
  // The order of sums, from the matrix and the kind of GPU alone.
  int chunks = 0, rounds = 0;  // of a row block; of a warp, or turn
  int splits = 1;              // thread blocks of the portable kernel's clusters
  int step = 0;                // from a warp's chunk to its next
  int parts = 1;               // runs of turns
  int sum_warps = 0;           // of a run
  // What no bit depends on.
  int tile_rows = 0, tiles = 0;  // activation rows of a thread block; how many such tiles there are
  int blocks = 1, halves = 1;    // as in the shapes above
  int block_parts = 1;           // WideShape::parts
  int stripes = 0;               // clusters that share the row blocks
  int stages = 0, x_stages = 0, x_rows = 0;
  LaunchShape launch;
};

// Whether linear_decode norms so many rows of the matrix itself: a launch less, where each thread block can afford it.
bool decode_norms(const MatrixLayout& matrix, int rows);
// norms: x is made of rows that the launch norms. None where the device has too little shared memory for the least.
std::optional<DecodePlan> plan_decode(const DeviceFacts& device, const MatrixLayout& matrix, int rows, bool norms,
                                      const DecodeTuning& tuning = {});

}  // namespace millrace::cuda
