/**
 * How weights lie in memory, and what a kernel of one's own is handed: csrc/model/slab_layout.h and
 * csrc/lab/millrace_kernel.h as data. A test holds both against the native side.
 */

/** [n * 16 + k] for 64 output features n and 16 input features k. */
function placesOf(place: (g: number, t: number, j: number, h: number, pair: number, odd: number) => number) {
  return Uint16Array.from({ length: 64 * 16 }, (_, index) => {
    const n = Math.floor(index / 16)
    const k = index % 16
    return place(n % 8, Math.floor((k % 8) / 2), Math.floor(n / 16), Math.floor(n / 8) % 2, Math.floor(k / 8), k % 2)
  })
}

/**
 * A matrix is `ceil(n / tileN)` row blocks, one after the other. A row block of a grouped code is group blocks: the scales of
 * 64 output features, their zeros or minimums if the code has them, then one tile for each 16 input features of the group;
 * codes of two levels have scales (and minimums) of the first before each span of 128 input features, of 6 bits of 64. A row block of float
 * weights is tiles alone.
 */
export const SLAB_LAYOUT = {
  version: 3,
  /** Output features of a row block, and of a tile. */
  tileN: 64,
  /** Input features of a tile. */
  tileK: 16,
  q4TileBytes: 512,
  /** Matrices begin at multiples of it in a slab. */
  alignment: 256,
  /** In a permutation: a stored input feature that stands for none. */
  padding: -1,
  /** Which nibble of a 4-bit tile holds the weight of (n, k); nibble i is the low half of byte i / 2 where i is even. */
  nibbleOf: placesOf((g, t, j, h, pair, odd) => ((4 * g + t) * 4 + j) * 8 + h + 2 * pair + 4 * odd),
  /** Which element of a float tile holds the weight of (n, k). */
  elementOf: placesOf((g, t, j, h, pair, odd) => (j * 32 + 4 * g + t) * 8 + 2 * h + 4 * pair + odd),
  /** Which of a group block's 64 scales, and 64 zeros, belongs to output feature n. */
  scaleOf: Uint8Array.from({ length: 64 }, (_, n) => 8 * (n % 8) + 4 * (Math.floor(n / 8) % 2) + Math.floor(n / 16)),
} as const

/** The structs of millrace_kernel.h: bytes in all, and of each field its offset. */
export const KERNEL_ARGUMENTS = {
  version: 3,
  linear: {
    bytes: 112,
    offsets: {
      units: 0,
      matrix_offset: 8,
      permutation_offset: 16,
      x: 24,
      y: 32,
      act: 40,
      unit: 48,
      rows: 52,
      n: 56,
      k: 60,
      k_stored: 64,
      group: 68,
      weight_type: 72,
      scale_type: 76,
      zeros: 80,
      permuted: 84,
      epilogue: 88,
      x_stride: 92,
      y_stride: 96,
      act_stride: 100,
      intermediate: 104,
    },
  },
  tile: { bytes: 16, offsets: { expert: 0, first: 4, rows: 8 } },
  experts: {
    bytes: 192,
    offsets: {
      units: 0,
      addresses: 8,
      first: 16,
      stride: 24,
      matrix_offset: 32,
      permutation_offset: 40,
      bias_offset: 48,
      x: 56,
      y: 64,
      act: 72,
      tiles: 80,
      tile_count: 88,
      places: 96,
      alpha: 104,
      limit: 108,
      unit: 112,
      experts: 116,
      rows: 120,
      top_k: 124,
      tile_rows: 128,
      x_divisor: 132,
      n: 136,
      k: 140,
      k_stored: 144,
      group: 148,
      weight_type: 152,
      scale_type: 156,
      zeros: 160,
      permuted: 164,
      epilogue: 168,
      x_stride: 172,
      y_stride: 176,
      act_stride: 180,
      intermediate: 184,
    },
  },
  route: {
    bytes: 80,
    offsets: {
      units: 0,
      bias_offset: 8,
      logits: 16,
      positions: 24,
      routes: 32,
      unit: 40,
      rows: 44,
      experts: 48,
      top_k: 52,
      groups: 56,
      top_groups: 60,
      group_best: 64,
      sigmoid: 68,
      renormalise: 72,
      scale: 76,
    },
  },
  combine: {
    bytes: 56,
    offsets: {
      answers: 0,
      routes: 8,
      positions: 16,
      out: 24,
      rows: 32,
      top_k: 36,
      width: 40,
      out_stride: 44,
      adds: 48,
      scale: 52,
    },
  },
  launch: {
    bytes: 32,
    offsets: { threads: 0, features_per_block: 4, rows_per_block: 8, shared_bytes: 12, programmatic: 16 },
  },
} as const
