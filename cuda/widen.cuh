#pragma once
// Weights of any code as float16 in shared memory, for kernels that multiply a part of a matrix several times, or its
// transpose. A warp takes a tile of the slab at a time, straight from global memory; what groups have is read with it.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda/code.cuh"
#include "cuda/common.cuh"
#include "cuda/linear.h"
#include "model/matrix_layout.h"

namespace millrace::cuda {

// What a kernel needs of a matrix; the code's tile is its template's.
struct WideMatrix {
  Weights weights;
  size_t offset, permutation_offset, row_block_bytes;
  int tile_bytes, group_slices, header_bytes, group_bytes, span_slices, span_bytes, scale_bytes;
  int slices;
  WeightType type;
  Scales scales;
  Offsets offsets;
  int zero;  // where groups have none of their own
  bool zeros, bfloat16, permuted;
};

inline WideMatrix wide_matrix(const MatrixLayout& m, const Weights& weights) {
  const Code& code = m.code.traits();
  WideMatrix w{};
  w.weights = weights;
  w.offset = m.offset;
  w.permutation_offset = m.permutation_offset;
  w.row_block_bytes = m.row_block_bytes();
  w.tile_bytes = code.tile_bytes();
  w.group_slices = code.grouped() ? m.code.group / kTileK : 1;
  w.header_bytes = code.grouped() ? static_cast<int>(m.group_header_bytes()) : 0;
  w.group_bytes = w.header_bytes + w.group_slices * w.tile_bytes;
  w.span_slices = code.span() / kTileK;
  w.span_bytes = code.grouped() ? code.span_bytes() : 0;
  w.scale_bytes = code.scale_bytes();
  w.slices = m.slices();
  w.type = m.code.type;
  w.scales = code.scales;
  w.offsets = code.offsets;
  w.zero = code.levels == Levels::table ? kTableZero : code.zero;
  w.zeros = m.code.zeros;
  w.bfloat16 = code.grouped() ? m.code.scale == ScaleType::bf16 : m.code.type == WeightType::bf16;
  w.permuted = m.code.permuted;
  return w;
}

// ---- A lane's words of a tile.

template <Levels LEVELS>
__device__ __forceinline__ void load_tile(Tile<4, LEVELS>& tile, const std::byte* at, int lane) {
  const uint4 v = load_once(at + lane * 16);
  tile.words[0] = v.x, tile.words[1] = v.y, tile.words[2] = v.z, tile.words[3] = v.w;
}
__device__ __forceinline__ void load_tile(Tile<6, Levels::integer>& tile, const std::byte* at, int lane) {
  const uint4 v = load_once(at + lane * 16);
  tile.words[0] = v.x, tile.words[1] = v.y, tile.words[2] = v.z, tile.words[3] = v.w;
  const uint2 high = *reinterpret_cast<const uint2*>(at + 512 + lane * 8);
  tile.high[0] = high.x, tile.high[1] = high.y;
}
__device__ __forceinline__ void load_tile(Tile<8, Levels::integer>& tile, const std::byte* at, int lane) {
#pragma unroll
  for (int pair = 0; pair < 2; pair++) {
    const uint4 v = load_once(at + pair * 512 + lane * 16);
    tile.words[pair][0] = v.x, tile.words[pair][1] = v.y, tile.words[pair][2] = v.z, tile.words[pair][3] = v.w;
  }
}
__device__ __forceinline__ void load_tile(Tile<8, Levels::e4m3>& tile, const std::byte* at, int lane) {
#pragma unroll
  for (int j = 0; j < 4; j++) {
    const uint2 v = *reinterpret_cast<const uint2*>(at + (j * 32 + lane) * 8);
    tile.words[j][0] = v.x, tile.words[j][1] = v.y;
  }
}

// ---- What a group has of a lane's features 16 j + 8 h + g, at 4 h + j.

__device__ __forceinline__ void read_halves(const std::byte* at, bool bfloat16, float (&out)[8]) {
  const uint4 v = *reinterpret_cast<const uint4*>(at);
  const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const float2 two = __half22float2(*reinterpret_cast<const __half2*>(&words[i]));
    out[2 * i] = bfloat16 ? __uint_as_float(words[i] << 16) : two.x;
    out[2 * i + 1] = bfloat16 ? __uint_as_float(words[i] & 0xffff0000) : two.y;
  }
}
__device__ __forceinline__ void read_floats(const std::byte* at, float (&out)[8]) {
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const float4 v = *reinterpret_cast<const float4*>(at + 16 * i);
    out[4 * i] = v.x, out[4 * i + 1] = v.y, out[4 * i + 2] = v.z, out[4 * i + 3] = v.w;
  }
}
__device__ __forceinline__ uint32_t byte_of(const uint2& bytes, int i) {
  return (i < 4 ? bytes.x : bytes.y) >> (8 * (i % 4)) & 0xff;
}

struct WideGroup {
  float scale[8], minimum[8];
  uint32_t zero[8];

  __device__ __forceinline__ void load(const WideMatrix& m, const std::byte* header, const std::byte* span, int g) {
    uint2 bytes{};
    if (m.scale_bytes == 1) bytes = *reinterpret_cast<const uint2*>(header + g * 8);
    if (m.scales == Scales::half) {
      read_halves(header + g * 16, m.bfloat16, scale);
    } else if (m.scales == Scales::f32) {
      read_floats(header + g * 32, scale);
    } else if (m.scales == Scales::two_level) {
      read_halves(span + g * 16, false, scale);
#pragma unroll
      for (int i = 0; i < 8; i++) scale[i] *= static_cast<float>(static_cast<int8_t>(byte_of(bytes, i)));
    } else if (m.scales == Scales::nv) {
      read_floats(span + g * 32, scale);
#pragma unroll
      for (int i = 0; i < 8; i++) scale[i] *= e4m3(byte_of(bytes, i));
    } else {
#pragma unroll
      for (int i = 0; i < 8; i++) scale[i] = e8m0_halved(byte_of(bytes, i));
    }
    const std::byte* offsets = header + kTileN * m.scale_bytes;
#pragma unroll
    for (int i = 0; i < 8; i++) minimum[i] = 0.0f, zero[i] = m.zero;
    if (m.offsets == Offsets::minimum) {
      read_halves(offsets + g * 16, false, minimum);
    } else if (m.offsets == Offsets::two_level) {
      read_halves(span + 2 * kTileN + g * 16, false, minimum);
      const uint2 levels = *reinterpret_cast<const uint2*>(offsets + g * 8);
#pragma unroll
      for (int i = 0; i < 8; i++) minimum[i] *= static_cast<float>(static_cast<int8_t>(byte_of(levels, i)));
    } else if (m.zeros) {
      const uint2 zeros = *reinterpret_cast<const uint2*>(offsets + g * 8);
#pragma unroll
      for (int i = 0; i < 8; i++) zero[i] = byte_of(zeros, i);
    }
  }
};

// Where halves of a row lie in shared memory: units of eight, unit u of row r at u ^ (r % 8), so that the rows of an
// ldmatrix, eight side by side, fall into different banks. stride: halves of a row, a multiple of 64.
__device__ __forceinline__ __half* swizzled(__half* rows, int stride, int row, int unit) {
  return rows + row * stride + ((unit ^ (row % 8)) * 8);
}

// A tile on its way: loaded, then written as float16.
template <int BITS, Levels LEVELS>
struct WideTile {
  Tile<BITS, LEVELS> tile;
  WideGroup numbers;

  __device__ __forceinline__ void load(const WideMatrix& m, const std::byte* row_block, int slice, int lane) {
    const int group = slice / m.group_slices, span = slice / m.span_slices;
    const size_t spans = m.span_bytes == 0 ? 0 : static_cast<size_t>(group * m.group_slices / m.span_slices + 1);
    const std::byte* header = row_block + spans * m.span_bytes + static_cast<size_t>(group) * m.group_bytes;
    const std::byte* span_header = row_block + static_cast<size_t>(span) * m.span_bytes +
                                   static_cast<size_t>(span) * (m.span_slices / m.group_slices) * m.group_bytes;
    load_tile(tile, header + m.header_bytes + static_cast<size_t>(slice % m.group_slices) * m.tile_bytes, lane);
    numbers.load(m, header, span_header, lane / 4);
  }

  // Calls put(feature of the row block, column of the tile, two weights side by side) of row blocks `inside` is true
  // of.
  template <class Inside, class Put>
  __device__ __forceinline__ void write(const WideMatrix& m, int lane, const Inside& inside, const Put& put) {
    const bool e2m1 = LEVELS == Levels::table && (m.type == WeightType::mxfp4 || m.type == WeightType::nvfp4);
    const float unit = e2m1 ? kTileUnit<WeightType::mxfp4> : 1.0f;
#pragma unroll
    for (int j = 0; j < 4; j++) {
      if (!inside(j)) continue;
      uint32_t a[4];
      const ZeroShift shift = Tile<BITS, LEVELS>::shift(numbers.zero[j], numbers.zero[4 + j]);
      if constexpr (LEVELS == Levels::table) {
        if (e2m1) {
          e2m1_registers(tile.words[j], a);
        } else {
          table_registers<WeightType::iq4_nl>(tile.words[j], 0x64006400, shift, a);
        }
      } else {
        tile.registers(j, 0x64006400, shift, a);
      }
#pragma unroll
      for (int r = 0; r < 4; r++) {
        const float2 level = __half22float2(*reinterpret_cast<const __half2*>(&a[r]));
        const float scale = numbers.scale[4 * (r % 2) + j] * unit, minimum = numbers.minimum[4 * (r % 2) + j];
        put(16 * j + 8 * (r % 2) + lane / 4, 2 * (lane % 4) + 8 * (r / 2), fmaf(scale, level.x, minimum),
            fmaf(scale, level.y, minimum));
      }
    }
  }
};

template <int BITS>
struct WideTile<BITS, Levels::floats> {
  float v[4][8];

  __device__ __forceinline__ void load(const WideMatrix& m, const std::byte* row_block, int slice, int lane) {
    const std::byte* at = row_block + static_cast<size_t>(slice) * m.tile_bytes + lane * BITS;
#pragma unroll
    for (int j = 0; j < 4; j++) {
      if constexpr (BITS == 32) {
        read_floats(at + j * 32 * BITS, v[j]);
      } else {
        read_halves(at + j * 32 * BITS, m.bfloat16, v[j]);
      }
    }
  }

  template <class Inside, class Put>
  __device__ __forceinline__ void write(const WideMatrix&, int lane, const Inside& inside, const Put& put) {
#pragma unroll
    for (int j = 0; j < 4; j++) {
      if (!inside(j)) continue;
#pragma unroll
      for (int r = 0; r < 4; r++) {
        put(16 * j + 8 * (r % 2) + lane / 4, 2 * (lane % 4) + 8 * (r / 2), v[j][2 * r], v[j][2 * r + 1]);
      }
    }
  }
};

// Output features [first, end) of the matrix, stored input features of `slices` slices from first_slice on, to rows
// from 0 on and columns from 0 on of `wide`. By all warps of the thread block, two tiles a warp at once; nothing else
// there is written.
template <int BITS, Levels LEVELS>
__device__ __forceinline__ void widen(const WideMatrix& m, int first, int end, int first_slice, int slices,
                                      __half* wide, int stride, int warps) {
  constexpr int kTogether = 2;
  const std::byte* matrix = m.weights.units[m.weights.unit] + m.offset;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int first_block = first / kTileN, blocks = (end - 1) / kTileN + 1 - first_block;
  for (int i = warp; i < blocks * slices; i += kTogether * warps) {
    WideTile<BITS, LEVELS> tiles[kTogether];
#pragma unroll
    for (int own = 0; own < kTogether; own++) {
      const int at = min(i + own * warps, blocks * slices - 1);
      tiles[own].load(m, matrix + (first_block + at / slices) * m.row_block_bytes, first_slice + at % slices, lane);
    }
#pragma unroll
    for (int own = 0; own < kTogether; own++) {
      const int at = i + own * warps;
      if (at >= blocks * slices) break;
      const int begin = (first_block + at / slices) * kTileN - first, column = at % slices * kTileK;
      tiles[own].write(
          m, lane, [&](int j) { return begin + 16 * j + 16 > 0 && begin + 16 * j < end - first; },
          [&](int feature, int k, float x, float y) {
            const int row = begin + feature;
            if (row < 0 || row >= end - first) return;
            *reinterpret_cast<__half2*>(swizzled(wide, stride, row, (column + k) / 8) + k % 8) =
                __floats2half2_rn(x, y);
          });
    }
  }
}

}  // namespace millrace::cuda
