#pragma once
// Prefill attention of tiles of queries against ascending tiles of keys, on tensor cores; its derivation is in
// attention_prefill.cu. Tile shapes are in plan/attention.h; the bench can time one against the other.
#include "cuda/attention_common.cuh"

namespace millrace::cuda {

// One of kPrefillTiles, with its numbers where a kernel wants them.
template <int INDEX>
struct TileOf {
  static constexpr PrefillTile kTile = kPrefillTiles[INDEX];
  static constexpr int D = kTile.dim;
  static constexpr bool kExact = kTile.exact;
  static constexpr int kWarps = kTile.warps;
  static constexpr int kWarpTiles = kTile.warp_tiles;
  static constexpr int kKeys = kTile.keys;
  static constexpr int kResident = kTile.residents;
  static constexpr int kThreads = kTile.threads();
  static constexpr int kRows = kTile.rows();  // (launch row, query head of the group) pairs
};

// attention_prefill without the append, in tiles of one's own choice: for benchmarks.
cudaError_t attention_prefill_tiles(const AttentionArguments& arguments, int tile, cudaStream_t stream,
                                    bool programmatic);

}  // namespace millrace::cuda
