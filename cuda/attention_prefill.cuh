#pragma once
// Prefill attention of tiles of queries against ascending tiles of keys, on tensor cores; its derivation is in
// attention_prefill.cu. Here are the tile shapes, so that the bench can time one against the other.
#include "cuda/attention_common.cuh"

namespace millrace::cuda {

// A tile has 16 * kWarpTiles rows a warp; keys come kKeys at a time, through two stages of shared memory.
template <int D_, int kWarps_, int kWarpTiles_, int kKeys_, int kResident_>
struct PrefillTile {
  static constexpr int D = D_;  // head_dim, or what it is padded to
  static constexpr int kWarps = kWarps_;
  static constexpr int kWarpTiles = kWarpTiles_;
  static constexpr int kKeys = kKeys_;
  static constexpr int kResident = kResident_;  // CTAs that an SM should hold
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kRows = 16 * kWarpTiles * kWarps;  // (launch row, query head of the group) pairs
  static constexpr int kSharedBytes = (kRows + 4 * kKeys) * D * static_cast<int>(sizeof(__half));
};

template <class Tile, bool kExact>
cudaError_t prefill_tiles(const AttentionArguments& arguments, cudaStream_t stream, bool programmatic);

}  // namespace millrace::cuda
