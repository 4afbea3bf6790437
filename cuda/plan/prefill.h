#pragma once
// Plans of linear_prefill, in its two kernels: mma.sync anywhere (linear_prefill.cu), wgmma on sm_90a
// (linear_prefill_sm90.cu). Both sum the stored input features in order, whatever the tile.
#include <optional>

#include "cuda/plan/device.h"
#include "model/matrix_layout.h"

namespace millrace::cuda {

// mma.sync: 128 output features by `rows` activation rows a thread block, in stages of some slices.
inline constexpr int kMmaThreads = 128;
inline constexpr int kMmaRowBlocks = 2;
constexpr int mma_tile_bytes(WeightType type) {
  return type == WeightType::q4 ? static_cast<int>(kQ4TileBytes) : kTileN * kTileK * (type == WeightType::f32 ? 4 : 2);
}
constexpr int mma_stage_slices(WeightType type) {
  return type == WeightType::q4 ? 4 : 2;
}
constexpr int mma_stage_bytes(WeightType type, int rows) {
  return mma_stage_slices(type) * (rows * kTileK * 2 + kMmaRowBlocks * mma_tile_bytes(type));
}

// wgmma: 256 output features by `rows`, through a ring of stages of four slices.
inline constexpr int kWgmmaThreads = 384;
inline constexpr int kWgmmaBlocks = 4;  // slab row blocks of a tile
inline constexpr int kWgmmaSlices = 4;  // of a stage
inline constexpr int kWgmmaStages = 7;  // at most
inline constexpr int kWgmmaBlockBytes = kWgmmaSlices * (static_cast<int>(kQ4TileBytes) + 192);
inline constexpr int kWgmmaPassRows = 16;    // rows that a warp's epilogue turns around at once
inline constexpr int kWgmmaPassStride = 36;  // floats; a multiple of 4 that spreads a fragment over all banks
inline constexpr int kWgmmaPassBytes = kWgmmaPassRows * kWgmmaPassStride * 4;
inline constexpr int kWgmmaMostBytes = 227 << 10;  // of shared memory, on the only GPU that has these kernels
struct WgmmaShape {
  int rows;
  int block_bytes = kWgmmaBlockBytes;  // of a row block's stage, at most
  int stages = kWgmmaStages;

  constexpr int x_bytes() const { return rows * 128; }
  constexpr int weights_at() const { return stages * x_bytes(); }
  constexpr int passes_at() const { return weights_at() + stages * kWgmmaBlocks * block_bytes; }
  constexpr int barriers_at() const { return passes_at() + 8 * kWgmmaPassBytes; }
  constexpr int bytes() const { return barriers_at() + 2 * stages * 8 + 1024; }  // 1024: alignment
};
// Codes other than q4 that have a wgmma kernel: those of which whole models are made. The kernel is one, but each code
// is some 20 KB of the addon.
constexpr bool wgmma_takes(WeightType type) {
  switch (type) {
    case WeightType::f32:
    case WeightType::q4_1:
    case WeightType::q5_1:
    case WeightType::q2_k:
    case WeightType::iq4_nl:
      return false;
    default:
      return true;
  }
}
constexpr int wgmma_block_bytes(WeightType type, int group_slices, bool zeros) {
  const Code& code = code_of(type);
  const int headers = code.grouped() ? kWgmmaSlices / group_slices * code.header_bytes(zeros) : 0;
  return code.span_bytes() + headers + kWgmmaSlices * code.tile_bytes();
}
constexpr int wgmma_stages(WeightType type, int group_slices, bool zeros) {
  WgmmaShape shape{128, wgmma_block_bytes(type, group_slices, zeros), kWgmmaStages};
  while (shape.bytes() > kWgmmaMostBytes) shape.stages--;
  return shape.stages;
}

// Codes without a kernel for many rows on all GPUs: where plan_prefill has none, linear_decode's, launch by launch.
constexpr bool prefill_by_decode(WeightType type) {
  return code_of(type).grouped() && type != WeightType::q4;
}

struct PrefillPlan {
  bool wgmma = false;
  int rows = 0;       // of a tile: mma 64 or 128; wgmma 64, 120 or 128
  int stages = 0;     // mma: 2 or 4
  bool fine = false;  // wgmma: groups may begin at any slice
  LaunchShape launch;
};

std::optional<PrefillPlan> plan_prefill(const DeviceFacts& device, const MatrixLayout& matrix, int rows);

}  // namespace millrace::cuda
