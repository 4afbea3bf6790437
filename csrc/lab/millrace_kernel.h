/* What a kernel of your own is handed when it takes the place of one of millrace's linears, and how the weights lie.
 * Plain C, without any other header of the project: compile with -I <package>/csrc/lab.
 *
 *   extern "C" __global__ void gemv_q4(struct millrace_linear a);
 *   extern "C" __device__ const struct millrace_launch gemv_q4_launch = { .threads = 256, ... };
 *
 * The kernel's name is the operation's. It computes y = x W^T for all rows, outputs and epilogues that it is handed;
 * the grid is (ceil(n / features_per_block), ceil(rows / rows_per_block)).
 */
#ifndef MILLRACE_KERNEL_H
#define MILLRACE_KERNEL_H

#include <stdint.h>

#define MILLRACE_KERNEL_VERSION 1

/* The slab layout (csrc/model/slab_layout.h has the whole description). A matrix is ceil(n / 64) row blocks.
 *   q4 row block     group blocks, one after the other: 64 scales, [64 integer zeros,] a 512-byte tile for each 16
 *                    input features of the group; the last group of a row block may be shorter
 *   float row block  a tile for each 16 input features, 64 x 16 elements
 * In a tile, lane = 4 g + t (g 0..7, t 0..3), j = 0..3, h = 0..1:
 *   output feature  16 j + 8 h + g           input features  2 t, 2 t + 1, 2 t + 8, 2 t + 9
 *   q4 tile         32 lanes x 4 words (j) x 8 nibbles: nibble i is h = i & 1, input feature 2 t + 8 (i >> 1 & 1) + (i
 * >> 2) float tile      4 (j) x 32 lanes x 8 elements: element i is h = i >> 1 & 1, input feature 2 t + 8 (i >> 2) + (i
 * & 1) scale, zero     index 8 g + 4 h + j
 */
#define MILLRACE_SLAB_LAYOUT_VERSION 1
#define MILLRACE_TILE_N 64
#define MILLRACE_TILE_K 16
#define MILLRACE_Q4_TILE_BYTES 512
#define MILLRACE_PADDING (-1) /* an entry of a permutation that stands for no input feature */

enum millrace_weight_type { MILLRACE_Q4 = 0, MILLRACE_F16 = 1, MILLRACE_BF16 = 2, MILLRACE_F32 = 3 };
enum millrace_scale_type { MILLRACE_SCALE_F16 = 0, MILLRACE_SCALE_BF16 = 1 };
enum millrace_epilogue {
  MILLRACE_STORE = 0,   /* y[row, i] = v_i */
  MILLRACE_ADD = 1,     /* y[row, i] += v_i: the residual stream */
  MILLRACE_SILU_MUL = 2 /* act[row, i] = half(silu(v_gate) * v_up), saturated at +-65504, for i < intermediate:
                           gate is output feature i / 8 * 16 + i % 8, up the one 8 further */
};

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
  int32_t group;    /* q4: stored input features that share a scale, a multiple of 16 */
  int32_t weight_type;
  int32_t scale_type;
  int32_t zeros;    /* q4: 1: an integer zero point (0..16, a byte) follows the scales; 0: it is 8 */
  int32_t permuted; /* 1: stored input features are in an order of their own */
  int32_t epilogue;
  int32_t x_stride; /* elements, a multiple of 8 */
  int32_t y_stride;
  int32_t act_stride;
  int32_t intermediate;
  int32_t reserved;
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
