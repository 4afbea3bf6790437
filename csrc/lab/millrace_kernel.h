/* What a kernel of your own is handed when it takes the place of one of millrace's, and how the weights lie.
 * Plain C, without any other header of the project: compile with -I <package>/csrc/lab.
 *
 *   extern "C" __global__ void gemv_q4(struct millrace_linear a);
 *   extern "C" __device__ const struct millrace_launch gemv_q4_launch = { .threads = 256, ... };
 *
 * The kernel's name is the operation's, its argument the struct of that kind:
 *
 *   gemv_*, gemm_*  millrace_linear    grid (ceil(n / features_per_block), ceil(rows / rows_per_block))
 *   experts_*       millrace_experts   grid (ceil(n / features_per_block), tiles at most)
 *   route           millrace_route     grid (1, ceil(rows / rows_per_block))
 *   combine         millrace_combine   grid (ceil(width / features_per_block), ceil(rows / rows_per_block))
 */
#ifndef MILLRACE_KERNEL_H
#define MILLRACE_KERNEL_H

#include <stdint.h>

#define MILLRACE_KERNEL_VERSION 3

/* The slab layout (csrc/model/slab_layout.h has the whole description, csrc/model/code.h what each code means). A
 * matrix is ceil(n / 64) row blocks. grouped row block   group blocks, one after the other: 64 scales, [64 zeros or
 * minimums,] a tile for each 16 input features of the group; the last group of a row block may be shorter. Codes of two
 * levels have 64 scales [and 64 minimums] of the first before each 128 input features float row block     a tile for
 * each 16 input features, 64 x 16 elements In a tile, lane = 4 g + t (g 0..7, t 0..3), j = 0..3, h = 0..1: output
 * feature  16 j + 8 h + g           input features  2 t, 2 t + 1, 2 t + 8, 2 t + 9 4 bits          32 lanes x 4 words
 * (j) x 8 nibbles: nibble i is h = i & 1, input feature 2 t + 8 (i >> 1 & 1) + (i >> 2) 6 bits          a tile of the
 * low 4, then 32 lanes x 2 words of the high 2: word v has those of j = 2 v, 2 v + 1; nibble i's are at {0, 4, 2, 6}[i
 * & 3] + 8 (j & 1) + 16 (i >> 2) 8 bits          input features 2 t, 2 t + 1, then 2 t + 8, 2 t + 9: each 32 lanes x 4
 * words (j) x 4 bytes: byte b is h = b & 1, the second feature where b & 2 float, e4m3     4 (j) x 32 lanes x 8
 * elements: element i is h = i >> 1 & 1, input feature 2 t + 8 (i >> 2) + (i & 1) scale, zero, minimum   index 8 g + 4
 * h + j Weights: Q4, Q8          scale (q - zero); zero 8 or 128, or a byte a group Q4_1, Q5_1      scale q + minimum,
 * float16 both;  Q5_0  scale (q - 16) Q2_K, Q4_K, Q5_K    d s q + e m: float16 d, e a span; int8 s, m a group Q3_K,
 * Q6_K      d s (q - 4), d s (q - 32) IQ4_NL, IQ4_XS  scale table[q], d s table[q]: the table of IQ4_NL MXFP4 2^(e -
 * 128) table[q], e a byte a group; the table is twice E2M1 NVFP4           d s table[q], float32 d a span, e4m3 s a
 * group; the same table FP8             scale q, float32 scale a group, e4m3 q
 */
#define MILLRACE_SLAB_LAYOUT_VERSION 3
#define MILLRACE_TILE_N 64
#define MILLRACE_TILE_K 16
#define MILLRACE_Q4_TILE_BYTES 512
#define MILLRACE_PADDING (-1) /* an entry of a permutation that stands for no input feature */

enum millrace_weight_type {
  MILLRACE_Q4 = 0,
  MILLRACE_F16 = 1,
  MILLRACE_BF16 = 2,
  MILLRACE_F32 = 3,
  MILLRACE_Q8 = 4,
  MILLRACE_Q4_1 = 5,
  MILLRACE_Q5_0 = 6,
  MILLRACE_Q5_1 = 7,
  MILLRACE_Q2_K = 8,
  MILLRACE_Q3_K = 9,
  MILLRACE_Q4_K = 10,
  MILLRACE_Q5_K = 11,
  MILLRACE_Q6_K = 12,
  MILLRACE_IQ4_NL = 13,
  MILLRACE_IQ4_XS = 14,
  MILLRACE_MXFP4 = 15,
  MILLRACE_NVFP4 = 16,
  MILLRACE_FP8 = 17
};
enum millrace_scale_type { MILLRACE_SCALE_F16 = 0, MILLRACE_SCALE_BF16 = 1 };
enum millrace_epilogue {
  MILLRACE_STORE = 0,      /* y[row, i] = v_i */
  MILLRACE_ADD = 1,        /* y[row, i] += v_i: the residual stream */
  MILLRACE_SILU_MUL = 2,   /* act[row, i] = half(silu(v_gate) * v_up), saturated at +-65504, for i < intermediate:
                              gate is output feature i / 8 * 16 + i % 8, up the one 8 further */
  MILLRACE_CLAMPED_GLU = 3 /* of experts alone, the same of gate <= limit and up within +-limit:
                              gate / (1 + exp(-alpha gate)) (up + 1) */
};

/* y = x W^T for all rows, output features and epilogues that it is handed. */
struct millrace_linear {
  /* The slab is at units[unit]. A captured graph serves every address of a slab: read the table in the kernel. */
  const unsigned char* const* units;
  uint64_t matrix_offset;      /* of the first row block, bytes from the slab's start */
  uint64_t permutation_offset; /* of int32 [k_stored], if permuted: the input feature of each stored one, or padding */
  const void* x;               /* float16 [rows, x_stride], input features in the model's order */
  float* y;                    /* store, add: [rows, y_stride] */
  void* act;                   /* silu_mul: float16 [rows, act_stride] */
  int32_t unit;
  int32_t rows;
  int32_t n;        /* output features */
  int32_t k;        /* input features of the model */
  int32_t k_stored; /* as stored, a multiple of 16: what is beyond k has weight zero, x there is not to be read */
  int32_t group;    /* of grouped codes: stored input features that share a scale, a multiple of 16 */
  int32_t weight_type;
  int32_t scale_type;
  int32_t zeros;    /* q4, q8: 1: an integer zero point (a byte) follows the scales; 0: it is 8 or 128 */
  int32_t permuted; /* 1: stored input features are in an order of their own */
  int32_t epilogue;
  int32_t x_stride; /* elements, a multiple of 8 */
  int32_t y_stride;
  int32_t act_stride;
  int32_t intermediate;
  int32_t reserved;
};

/* Rows that chose one expert, side by side. */
struct millrace_tile {
  int32_t expert;
  int32_t first; /* its rows are places[first], places[first + 1], ... */
  int32_t rows;  /* from 1 to tile_rows */
  int32_t reserved;
};

/* One linear of a mixture's experts, as rows that decode use it: y[place] = x[place / x_divisor] W_e^T of the expert e
 * that the place chose. Place row * top_k + rank is a row's choice. A thread block takes tiles[blockIdx.y] where
 * blockIdx.y < *tile_count, else nothing; of more than 8 rows there are two launches, of tiles of few rows and of many.
 */
struct millrace_experts {
  const unsigned char* const* units; /* expert e begins at units[unit] + first + e * stride, */
  const unsigned char* const*
      addresses; /* or, where this is not null, at addresses[e]: memory of the GPU or of the host */
  uint64_t first;
  uint64_t stride;
  uint64_t matrix_offset; /* from an expert's first byte, as all offsets here */
  uint64_t permutation_offset;
  int64_t bias_offset; /* float32 [n], added before the epilogue; -1: none */
  const void* x;       /* float16 [rows, or places where x_divisor is 1, x_stride] */
  float* y;            /* store: [places, y_stride] */
  void* act;           /* silu_mul, clamped: float16 [places, act_stride] */
  const struct millrace_tile* tiles;
  const int32_t* tile_count;
  const int32_t* places;
  float alpha; /* of MILLRACE_CLAMPED_GLU */
  float limit;
  int32_t unit;
  int32_t experts;
  int32_t rows;
  int32_t top_k;
  int32_t tile_rows;
  int32_t x_divisor; /* top_k, or 1 */
  int32_t n;         /* what follows is as in millrace_linear */
  int32_t k;
  int32_t k_stored;
  int32_t group;
  int32_t weight_type;
  int32_t scale_type;
  int32_t zeros;
  int32_t permuted;
  int32_t epilogue;
  int32_t x_stride;
  int32_t y_stride;
  int32_t act_stride;
  int32_t intermediate;
  int32_t reserved;
};

/* Which experts answer a row: numbers of the top_k best, the best first (of equals the lower number), then their
 * weights. Scores are a softmax of the logits or, with `sigmoid`, a sigmoid of each; a choice goes by score + bias. Of
 * several groups only the top_groups are chosen from whose group_best (1 or 2) highest have the greatest sums. A weight
 * is the score, divided by the sum of the chosen with `renormalise`, times `scale`.
 */
struct millrace_route {
  const unsigned char* const* units;
  int64_t bias_offset;      /* float32 [experts] in units[unit]; -1: none */
  const float* logits;      /* [rows, experts] */
  const int32_t* positions; /* [rows]; negative: a row of padding, of which anything may be left */
  float* routes;            /* [rows, 2 top_k] */
  int32_t unit;
  int32_t rows;
  int32_t experts;
  int32_t top_k;
  int32_t groups;
  int32_t top_groups;
  int32_t group_best;
  int32_t sigmoid;
  int32_t renormalise;
  float scale;
};

/* sum = the answers of a row's experts, each times its weight, in the order of ranks; of a row of padding 0.
 * out[row, :] = sum, or with `adds` out[row, :] += scale * sum.
 */
struct millrace_combine {
  const float* answers;     /* [rows, top_k, width] */
  const float* routes;      /* [rows, 2 top_k] */
  const int32_t* positions; /* [rows]; negative: padding */
  float* out;               /* [rows, out_stride] */
  int32_t rows;
  int32_t top_k;
  int32_t width;
  int32_t out_stride;
  int32_t adds;
  float scale;
};

/* How to launch it. Without such a symbol: 128 threads, 64 features and 1 row a block. */
struct millrace_launch {
  int32_t threads;            /* a block */
  int32_t features_per_block; /* output features a block computes */
  int32_t rows_per_block;     /* 0: all of them */
  int32_t shared_bytes;       /* dynamic shared memory */
  int32_t programmatic;       /* 1: the kernel waits for its predecessor itself (griddepcontrol.wait), before it reads
                                 anything at all and before it ends; 0: it starts when the predecessor has ended.
                                 Before sm_90 it always does. */
  int32_t reserved[3];
};

#endif
