// Linears of every integer code but q4 (whose kernels are older and made for it), for the file that compiles them with
// Words. Sums are exact and scaled as in Q4RowBlock, so every instruction set gives the same bits.
#include "backend/cpu/code.h"

namespace millrace {
namespace {

constexpr int kCodeRows = 16;  // rows that code_linear() takes at most

// Rows [row, row + kRows) of a group.
template <class W, class Plane, int kRows>
inline void code_group(const CodeRowBlock& a, const Plane& plane, const std::byte* tiles_p, int tiles, int row,
                       const typename W::V* spread, const float* x_scales, const int32_t* x_sums,
                       const GroupHeader& h) {
  using V = typename W::V;
  constexpr int kParts = 4 / W::kTs;
  const bool minimums = a.code->minimums();
  for (int g = 0; g < 8; g++) {
    V sum[kRows][2];
    MILLRACE_UNROLL(4)
    for (int r = 0; r < kRows; r++) sum[r][0] = sum[r][1] = W::zero();
    for (int s = 0; s < tiles; s++) {
      const std::byte* tile = tiles_p + static_cast<ptrdiff_t>(s) * Plane::kTileBytes;
      if (row == 0) W::template prefetch<Plane::kTileBytes>(tile, g);
      MILLRACE_UNROLL(4)
      for (int part = 0; part < kParts; part++) {
        V w[4];
        plane.pairs(tile, g, part * W::kTs, w);
        MILLRACE_UNROLL(4)
        for (int r = 0; r < kRows; r++) {
          const V* x = spread + ((static_cast<ptrdiff_t>(row + r) * tiles + s) * kParts + part) * 2;
          sum[r][0] = W::dot(W::dot(sum[r][0], w[0], x[0]), w[2], x[1]);
          sum[r][1] = W::dot(W::dot(sum[r][1], w[1], x[0]), w[3], x[1]);
        }
      }
    }
    for (int r = 0; r < kRows; r++) {
      alignas(32) int32_t products[8];  // [h][j]
      W::reduce(sum[r][0], products);
      W::reduce(sum[r][1], products + 4);
      float* out = a.out + (row + r) * kTileN + 8 * g;
      const float x_scale = x_scales[row + r];
      const int32_t x_sum = x_sums[row + r];
      for (int i = 0; i < 8; i++) {
        const int32_t exact = products[i] - h.zero[8 * g + i] * x_sum;
        out[i] += static_cast<float>(exact) * (h.scale[8 * g + i] * x_scale);
      }
      if (!minimums) continue;
      const float x_total = static_cast<float>(x_sum) * x_scale;
      for (int i = 0; i < 8; i++) out[i] += h.minimum[8 * g + i] * x_total;
    }
  }
}

// One row, where the sums of a whole row block fit the registers: they are reduced for 16 outputs at once.
template <class W, class Plane>
void code_single(const CodeRowBlock& a) {
  using V = typename W::V;
  const Code& code = *a.code;
  const Plane plane(code);
  const int span_bytes = code.span_bytes(), header_bytes = code.header_bytes(a.zeros);
  const int span_tiles = code.span() / kTileK;
  const bool minimums = code.minimums();
  GroupHeader h;
  begin_header(code, h);
  for (int i = 0; i < kTileN; i++) a.out[i] = 0.0f;
  const std::byte* p = a.weights;
  const int16_t* x = a.x;
  for (int tile = 0, group = 0; tile < a.slices; tile += a.group_tiles, group++) {
    if (span_bytes > 0 && tile % span_tiles == 0) {
      read_span<W>(code, p, h);
      p += span_bytes;
    }
    read_header<W>(code, p, a.zeros, a.bf16_scales, h);
    p += header_bytes;
    const int tiles = a.slices - tile < a.group_tiles ? a.slices - tile : a.group_tiles;
    V sum[8][2];
    MILLRACE_UNROLL(8)
    for (int g = 0; g < 8; g++) sum[g][0] = sum[g][1] = W::zero();
    for (int s = 0; s < tiles; s++) {
      const V x0 = W::spread(x, 0, 0), x1 = W::spread(x, 1, 0);
      MILLRACE_UNROLL(8)
      for (int g = 0; g < 8; g++) {
        V w[4];
        W::template prefetch<Plane::kTileBytes>(p, g);
        plane.pairs(p, g, 0, w);
        sum[g][0] = W::dot(W::dot(sum[g][0], w[0], x0), w[2], x1);
        sum[g][1] = W::dot(W::dot(sum[g][1], w[1], x0), w[3], x1);
      }
      x += kTileK;
      p += Plane::kTileBytes;
    }
    const float x_scale = a.scales[group];
    const int32_t x_sum = a.sums[group];
    MILLRACE_UNROLL(4)
    for (int i = 0; i < 4; i++) {
      const int at = 16 * i;
      const V exact = W::reduce(sum[2 * i][0], sum[2 * i][1], sum[2 * i + 1][0], sum[2 * i + 1][1]);
      W::add_scaled(exact, h.zero + at, x_sum, h.scale + at, x_scale, a.out + at);
    }
    if (!minimums) continue;
    const float x_total = static_cast<float>(x_sum) * x_scale;
    for (int i = 0; i < kTileN; i++) a.out[i] += h.minimum[i] * x_total;
  }
}

template <class W, class Plane>
void code_rows(const CodeRowBlock& a) {
  using V = typename W::V;
  if constexpr (W::kSingle) {
    if (a.rows == 1) return code_single<W, Plane>(a);
  }
  constexpr int kParts = 4 / W::kTs;
  const Code& code = *a.code;
  const Plane plane(code);
  const int span_bytes = code.span_bytes(), header_bytes = code.header_bytes(a.zeros);
  const int span_tiles = code.span() / kTileK;
  V spread[kCodeRows * kLinearCodeTiles * 2 * kParts];
  GroupHeader h;
  begin_header(code, h);
  for (int i = 0; i < a.rows * kTileN; i++) a.out[i] = 0.0f;
  const std::byte* p = a.weights;
  const int16_t* x = a.x;
  const float* x_scales = a.scales;
  const int32_t* x_sums = a.sums;
  for (int tile = 0; tile < a.slices; tile += a.group_tiles) {
    if (span_bytes > 0 && tile % span_tiles == 0) {
      read_span<W>(code, p, h);
      p += span_bytes;
    }
    read_header<W>(code, p, a.zeros, a.bf16_scales, h);
    p += header_bytes;
    const int tiles = a.slices - tile < a.group_tiles ? a.slices - tile : a.group_tiles;
    V* to = spread;
    for (int i = 0; i < a.rows * tiles; i++) {
      for (int part = 0; part < kParts; part++) {
        *to++ = W::spread(x, 0, part * W::kTs);
        *to++ = W::spread(x, 1, part * W::kTs);
      }
      x += kTileK;
    }
    for (int row = 0; row < a.rows;) {
      const int left = a.rows - row;
      if (left >= 4) {
        code_group<W, Plane, 4>(a, plane, p, tiles, row, spread, x_scales, x_sums, h);
        row += 4;
      } else if (left >= 2) {
        code_group<W, Plane, 2>(a, plane, p, tiles, row, spread, x_scales, x_sums, h);
        row += 2;
      } else {
        code_group<W, Plane, 1>(a, plane, p, tiles, row, spread, x_scales, x_sums, h);
        row++;
      }
    }
    p += static_cast<ptrdiff_t>(tiles) * Plane::kTileBytes;
    x_scales += a.rows;
    x_sums += a.rows;
  }
}

template <class W>
void code_linear(const CodeRowBlock& a) {
  if (a.code->levels == Levels::table) return code_rows<W, PlaneTable<W>>(a);
  switch (a.code->bits) {
    case 4:
      return code_rows<W, Plane4<W>>(a);
    case 6:
      return code_rows<W, Plane6<W>>(a);
    default:
      return code_rows<W, Plane8<W>>(a);
  }
}

// Tiles of e4m3 numbers times their group's scales, as float32 tiles.
template <class W>
void code_widen(const std::byte* header, const std::byte* tiles, int count, float* out) {
  float scale[kTileN];
  __builtin_memcpy(scale, header, sizeof(scale));
  const auto* from = reinterpret_cast<const uint8_t*>(tiles);
  for (int tile = 0; tile < count; tile++) {
    for (int j = 0; j < 4; j++) {
      for (int g = 0; g < 8; g++, from += 32, out += 32) W::widen(from, scale[8 * g + j], scale[8 * g + 4 + j], out);
    }
  }
}

}  // namespace
}  // namespace millrace
