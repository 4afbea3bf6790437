// How grouped codes lie in memory: tiles that hold what was put in, and parts that fill a row block without overlap.
#include "model/code.h"

#include <cstring>
#include <vector>

#include "check.h"
#include "core/memory.h"
#include "model/slab_layout.h"

using namespace millrace;

namespace {

template <typename Body>
void for_codes(Body&& body) {
  for (int type = 0; type < kWeightTypes; type++) {
    const auto code = static_cast<WeightType>(type);
    if (code_of(code).grouped()) body(code);
  }
}

}  // namespace

TEST(tiles_hold_every_level_in_its_place) {
  auto random = check::random(1);
  for_codes([&](WeightType type) {
    const int bits = code_of(type).bits;
    std::vector<uint8_t> q(kTileN * kTileK), back(kTileN * kTileK, 0xee);
    for (uint8_t& level : q) level = static_cast<uint8_t>(random() % (1u << bits));
    std::vector<std::byte> tile(static_cast<size_t>(code_of(type).tile_bytes()) + 1, std::byte{0xa5});
    encode_tile(type, q.data(), tile.data());
    decode_tile(type, tile.data(), back.data());
    CHECK(q == back);
    CHECK_EQ(static_cast<int>(tile.back()), 0xa5);
  });
}

TEST(the_bits_of_tiles_are_where_kernels_mask_them) {
  for_codes([&](WeightType type) {
    const Code& code = code_of(type);
    if (!code.integer()) return;
    for (int n = 0; n < kTileN; n++) {
      for (int k = 0; k < kTileK; k++) {
        std::vector<uint8_t> q(kTileN * kTileK);
        q[n * kTileK + k] = static_cast<uint8_t>((1 << code.bits) - 1);
        std::vector<uint32_t> tile(static_cast<size_t>(code.tile_bytes()) / 4);
        encode_tile(type, q.data(), reinterpret_cast<std::byte*>(tile.data()));
        const int g = n % 8, h = n / 8 % 2, j = n / 16, t = k % 8 / 2, pair = k / 8, odd = k % 2;
        const int lane = 4 * g + t, shift = 16 * odd;
        if (code.bits == 8) {
          CHECK_EQ(tile[pair * 128 + lane * 4 + j] >> (8 * h) & 0x00ff00ff, 255u << shift);
          continue;
        }
        const int i = 2 * pair + h;
        CHECK_EQ(tile[lane * 4 + j] >> (4 * i) & 0x000f000f, 15u << shift);
        const int field = i == 0 ? 0 : i == 1 ? 4 : i == 2 ? 2 : 6;
        if (code.bits == 6) CHECK_EQ(tile[128 + lane * 2 + j / 2] >> (field + 8 * (j % 2)) & 0x00030003, 3u << shift);
      }
    }
  });
}

TEST(parts_of_a_row_block_neither_overlap_nor_leave_gaps) {
  for_codes([&](WeightType type) {
    MatrixCode code;
    code.type = type;
    for (const bool zeros : {false, code_of(type).zeros}) {
      code.zeros = zeros;
      code.group = groups_of(type).least;
      const MatrixLayout m = measure_matrix(code, 100, 416, 416);
      std::vector<int> covered(m.bytes);
      const auto cover = [&](size_t at, size_t bytes) {
        for (size_t i = 0; i < bytes; i++) covered.at(at + i)++;
      };
      for (int block = 0; block < m.n_blocks(); block++) {
        for (int span = 0; span < m.spans(); span++) cover(m.span_offset(block, span), m.span_bytes());
        for (int group = 0; group < m.groups(); group++) cover(m.group_offset(block, group), m.group_header_bytes());
        for (int slice = 0; slice < m.slices(); slice++) cover(m.tile_offset(block, slice), m.tile_bytes());
      }
      CHECK(covered == std::vector<int>(m.bytes, 1));
    }
  });
}

TEST(fields_of_groups_and_spans_come_back) {
  for_codes([&](WeightType type) {
    MatrixCode code;
    code.type = type;
    code.group = groups_of(type).least;
    code.zeros = code_of(type).zeros;
    const MatrixLayout m = measure_matrix(code, 64, 256, 256);
    std::vector<std::byte> matrix(m.bytes);
    GroupField group[kTileN];
    SpanField span[kTileN];
    for (int n = 0; n < kTileN; n++) {
      group[n] = {0x3c00u + static_cast<uint32_t>(n), static_cast<uint16_t>(n + 3)};
      if (code_of(type).scale_bytes() == 1) group[n].scale = static_cast<uint32_t>(n + 1);
      span[n] = {0x3800u + static_cast<uint32_t>(n), static_cast<uint16_t>(0xb800 + n)};
    }
    const int which = m.groups() - 1;
    encode_group(code, group, matrix.data() + m.group_offset(0, which));
    if (m.spans() > 0) encode_span(code, span, matrix.data() + m.span_offset(0, which * code.group / m.span()));
    for (int n = 0; n < kTileN; n++) {
      const GroupValues expected = values_of(code, group[n], span[n]);
      const GroupValues found = decode_group(m, matrix.data(), 0, which, n);
      CHECK_EQ(found.scale, expected.scale);
      CHECK_EQ(found.minimum, expected.minimum);
      CHECK_EQ(found.zero, expected.zero);
    }
  });
}
