// The integer codes but q4 in AVX-512, for the two files that compile them with and without VNNI.
//
// Of many rows, a group's weights, less their zeros, are turned once for all rows to one output a lane, so that an x
// operand is an int32 broadcast, nothing is left to reduce and 16 outputs are scaled at once. Six rows by 64 outputs
// are summed at a time. The terms are those of CodeRowBlock in their order: the same bits as of a row alone.
#include "backend/cpu/linear_code_body.h"
#include "backend/cpu/words_avx512.h"

namespace millrace {
namespace {

constexpr int kTilePairs = kTileK / 2;
constexpr int kPanelRows = 6;  // rows whose sums fit the registers

// pairs[p][i]: input features 2 p and 2 p + 1 of outputs 16 i .. 16 i + 15 of tile_index() order.
template <class Plane>
inline void turn_tile(const Plane& plane, const std::byte* tile, const __m512i* zeros, __m512i (*pairs)[4]) {
  using W = WordsAvx512;
  MILLRACE_UNROLL(4)
  for (int i = 0; i < 4; i++) {
    __m512i a[4], b[4];  // of g = 2 i and 2 i + 1: A registers, lanes [t][j]
    W::prefetch<Plane::kTileBytes>(tile, 2 * i);
    W::prefetch<Plane::kTileBytes>(tile, 2 * i + 1);
    plane.pairs(tile, 2 * i, 0, a);
    plane.pairs(tile, 2 * i + 1, 0, b);
    MILLRACE_UNROLL(2)
    for (int half = 0; half < 2; half++) {
      const __m512i a0 = a[2 * half], a1 = a[2 * half + 1], b0 = b[2 * half], b1 = b[2 * half + 1];
      const __m512i u = _mm512_shuffle_i32x4(a0, a1, 0x44), v = _mm512_shuffle_i32x4(b0, b1, 0x44);  // t = 0, 1
      const __m512i y = _mm512_shuffle_i32x4(a0, a1, 0xee), z = _mm512_shuffle_i32x4(b0, b1, 0xee);  // t = 2, 3
      pairs[4 * half][i] = _mm512_sub_epi16(_mm512_shuffle_i32x4(u, v, 0x88), zeros[i]);
      pairs[4 * half + 1][i] = _mm512_sub_epi16(_mm512_shuffle_i32x4(u, v, 0xdd), zeros[i]);
      pairs[4 * half + 2][i] = _mm512_sub_epi16(_mm512_shuffle_i32x4(y, z, 0x88), zeros[i]);
      pairs[4 * half + 3][i] = _mm512_sub_epi16(_mm512_shuffle_i32x4(y, z, 0xdd), zeros[i]);
    }
  }
}

// One group of kRows rows.
struct PanelGroup {
  const __m512i (*weights)[4];
  int pairs;
  const int16_t* x;  // [rows, 2 * pairs]
  const float* x_scales;
  const int32_t* x_sums;
  const GroupHeader* header;
  float* out;  // aligned to 64 bytes
};

template <int kRows, bool kMinimums>
void multiply_panel(const PanelGroup& a) {
  __m512i sum[kRows][4];
  MILLRACE_UNROLL(6)
  for (int row = 0; row < kRows; row++) {
    MILLRACE_UNROLL(4)
    for (int i = 0; i < 4; i++) sum[row][i] = _mm512_setzero_si512();
  }
  for (int p = 0; p < a.pairs; p++) {
    MILLRACE_UNROLL(6)
    for (int row = 0; row < kRows; row++) {
      int32_t pair;
      __builtin_memcpy(&pair, a.x + (row * a.pairs + p) * 2, sizeof(pair));
      const __m512i x = _mm512_set1_epi32(pair);
      MILLRACE_UNROLL(4)
      for (int i = 0; i < 4; i++) sum[row][i] = WordsAvx512::dot(sum[row][i], a.weights[p][i], x);
    }
  }
  float x_totals[kRows];
  const float* x_scales = a.x_scales;
  MILLRACE_UNROLL(6)
  for (int row = 0; row < kRows; row++) x_totals[row] = static_cast<float>(a.x_sums[row]) * x_scales[row];
  float* out = a.out;
  MILLRACE_UNROLL(4)
  for (int i = 0; i < 4; i++, out += 16) {
    const __m512 scale = _mm512_load_ps(a.header->scale + 16 * i);
    const __m512 minimum = _mm512_load_ps(a.header->minimum + 16 * i);
    MILLRACE_UNROLL(6)
    for (int row = 0; row < kRows; row++) {
      const __m512 term =
          _mm512_mul_ps(_mm512_cvtepi32_ps(sum[row][i]), _mm512_mul_ps(scale, _mm512_set1_ps(x_scales[row])));
      __m512 value = _mm512_add_ps(_mm512_load_ps(out + row * kTileN), term);
      if (kMinimums) value = _mm512_add_ps(value, _mm512_mul_ps(minimum, _mm512_set1_ps(x_totals[row])));
      _mm512_store_ps(out + row * kTileN, value);
    }
  }
}

using MultiplyPanel = void (*)(const PanelGroup&);
template <bool kMinimums>
constexpr MultiplyPanel kMultiplyPanel[kPanelRows] = {multiply_panel<1, kMinimums>, multiply_panel<2, kMinimums>,
                                                      multiply_panel<3, kMinimums>, multiply_panel<4, kMinimums>,
                                                      multiply_panel<5, kMinimums>, multiply_panel<6, kMinimums>};

template <class Plane>
void code_panel(const CodeRowBlock& a) {
  using W = WordsAvx512;
  const Code& code = *a.code;
  const Plane plane(code);
  const MultiplyPanel* multiply = code.minimums() ? kMultiplyPanel<true> : kMultiplyPanel<false>;
  const int span_bytes = code.span_bytes(), header_bytes = code.header_bytes(a.zeros);
  const int span_tiles = code.span() / kTileK;
  const int panels = (a.rows + kPanelRows - 1) / kPanelRows, panel = (a.rows + panels - 1) / panels;
  alignas(64) __m512i weights[kLinearCodeTiles * kTilePairs][4];
  GroupHeader h;
  begin_header(code, h);
  for (int i = 0; i < a.rows * kTileN; i += 16) _mm512_storeu_ps(a.out + i, _mm512_setzero_ps());
  const std::byte* p = a.weights;
  PanelGroup group{weights, 0, a.x, a.scales, a.sums, &h, nullptr};
  for (int tile = 0; tile < a.slices; tile += a.group_tiles) {
    if (span_bytes > 0 && tile % span_tiles == 0) {
      read_span<W>(code, p, h);
      p += span_bytes;
    }
    read_header<W>(code, p, a.zeros, a.bf16_scales, h);
    p += header_bytes;
    __m512i zeros[4];
    for (int i = 0; i < 4; i++) {
      const __m512i zero = _mm512_load_si512(h.zero + 16 * i);
      zeros[i] = _mm512_or_si512(zero, _mm512_slli_epi32(zero, 16));
    }
    const int tiles = a.slices - tile < a.group_tiles ? a.slices - tile : a.group_tiles;
    for (int s = 0; s < tiles; s++, p += Plane::kTileBytes) turn_tile(plane, p, zeros, weights + s * kTilePairs);
    group.pairs = tiles * kTilePairs;
    for (int row = 0; row < a.rows; row += panel) {
      const int rows = a.rows - row < panel ? a.rows - row : panel;
      group.out = a.out + row * kTileN;
      multiply[rows - 1](group);
      group.x += static_cast<ptrdiff_t>(rows) * group.pairs * 2;
      group.x_scales += rows;
      group.x_sums += rows;
    }
  }
}

constexpr int kFewRows = 1;  // up to which turning the weights costs more than it saves

// 1..kLinearRows rows.
void code_avx512(const CodeRowBlock& a) {
  if (a.rows <= kFewRows) return code_linear<WordsAvx512>(a);
  if (a.code->levels == Levels::table) return code_panel<PlaneTable<WordsAvx512>>(a);
  switch (a.code->bits) {
    case 4:
      return code_panel<Plane4<WordsAvx512>>(a);
    case 6:
      return code_panel<Plane6<WordsAvx512>>(a);
    default:
      return code_panel<Plane8<WordsAvx512>>(a);
  }
}

}  // namespace
}  // namespace millrace
