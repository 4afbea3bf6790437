#include "model/slab_layout.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/error.h"
#include "core/half.h"
#include "core/memory.h"

namespace millrace {

size_t element_bytes(WeightType type) {
  const Code& traits = code_of(type);
  if (!traits.grouped()) return static_cast<size_t>(traits.bits / 8);
  throw Error(code::kInternal, "element_bytes of a grouped type", "report this as a bug");
}

size_t MatrixLayout::row_block_bytes() const {
  return static_cast<size_t>(spans()) * span_bytes() + static_cast<size_t>(groups()) * group_header_bytes() +
         static_cast<size_t>(slices()) * tile_bytes();
}

size_t MatrixLayout::span_offset(int row_block, int span) const {
  const size_t groups = static_cast<size_t>(span) * static_cast<size_t>(code.traits().span() / code.group);
  return static_cast<size_t>(row_block) * row_block_bytes() + static_cast<size_t>(span) * span_bytes() +
         groups * group_bytes();
}

size_t MatrixLayout::group_offset(int row_block, int group) const {
  const size_t spans_before =
      span_bytes() == 0 ? 0 : static_cast<size_t>(group * code.group / code.traits().span()) + 1;
  return static_cast<size_t>(row_block) * row_block_bytes() + spans_before * span_bytes() +
         static_cast<size_t>(group) * group_bytes();
}

size_t MatrixLayout::tile_offset(int row_block, int slice) const {
  if (!grouped()) {
    return static_cast<size_t>(row_block) * row_block_bytes() + static_cast<size_t>(slice) * tile_bytes();
  }
  const int per_group = code.group / kTileK;
  return group_offset(row_block, slice / per_group) + group_header_bytes() +
         static_cast<size_t>(slice % per_group) * tile_bytes();
}

size_t SlabBuilder::reserve(size_t bytes) {
  const size_t offset = bytes_;
  bytes_ = round_up(bytes_ + bytes, kSlabAlignment);
  return offset;
}

size_t SlabBuilder::floats(size_t count) {
  return reserve(count * sizeof(float));
}

MatrixLayout SlabBuilder::matrix(MatrixCode code, int n, int k, int k_stored) {
  MatrixLayout m = measure_matrix(code, n, k, k_stored);
  if (code.permuted) m.permutation_offset = reserve(static_cast<size_t>(m.k_stored) * sizeof(int32_t));
  m.offset = reserve(m.bytes);
  return m;
}

MatrixLayout measure_matrix(MatrixCode code, int n, int k, int k_stored) {
  MatrixLayout m;
  m.code = code;
  m.n = n;
  m.k = k;
  m.k_stored = k_stored;
  const bool spans = code.traits().span_bytes() > 0;
  if (k_stored % kTileK != 0 || (m.grouped() && (code.group <= 0 || code.group % kTileK != 0)) ||
      (spans && code.traits().span() % code.group != 0)) {
    throw Error(code::kInternal, format("matrix layout of %d stored features in groups of %d", k_stored, code.group),
                "report this as a bug");
  }
  m.bytes = m.row_block_bytes() * m.n_blocks();
  return m;
}

namespace {

constexpr int kFieldOf[4] = {0, 4, 2, 6};  // of an A register, among the high 2 bits

template <typename T>
void decode_float_tile(const T* tile, T* w) {
  for (int e = 0; e < kTileN * kTileK; e++) {
    const int j = e / 256, lane = e / 8 % 32, i = e % 8;
    w[(16 * j + 8 * (i / 2 % 2) + lane / 4) * kTileK + 2 * (lane % 4) + 8 * (i / 4) + i % 2] = tile[e];
  }
}

// Calls visit(place, shift, n, k) for each weight of a tile of 4 bits: the byte offset of its word, its bits there.
template <typename Visit>
void for_nibbles(Visit&& visit) {
  for (int lane = 0; lane < 32; lane++) {
    const int g = lane / 4, t = lane % 4;
    for (int j = 0; j < 4; j++) {
      for (int i = 0; i < 8; i++) {
        visit((lane * 4 + j) * 4, 4 * i, 16 * j + 8 * (i % 2) + g, 2 * t + 8 * ((i / 2) % 2) + i / 4);
      }
    }
  }
}
// The same of the high 2 bits of a tile of 6.
template <typename Visit>
void for_pairs_of_bits(Visit&& visit) {
  for (int lane = 0; lane < 32; lane++) {
    const int g = lane / 4, t = lane % 4;
    for (int j = 0; j < 4; j++) {
      for (int i = 0; i < 8; i++) {
        visit((lane * 2 + j / 2) * 4, kFieldOf[i % 4] + 8 * (j % 2) + 16 * (i / 4), 16 * j + 8 * (i % 2) + g,
              2 * t + 8 * ((i / 2) % 2) + i / 4);
      }
    }
  }
}
// The same of a tile of 8 bits.
template <typename Visit>
void for_bytes(Visit&& visit) {
  for (int pair = 0; pair < 2; pair++) {
    for (int lane = 0; lane < 32; lane++) {
      const int g = lane / 4, t = lane % 4;
      for (int j = 0; j < 4; j++) {
        for (int b = 0; b < 4; b++) {
          visit(pair * 512 + (lane * 4 + j) * 4, 8 * b, 16 * j + 8 * (b % 2) + g, 2 * t + b / 2 + 8 * pair);
        }
      }
    }
  }
}

uint32_t get_bits(const std::byte* at, int shift, uint32_t mask) {
  uint32_t word;
  std::memcpy(&word, at, 4);
  return word >> shift & mask;
}

// The lowest `bytes` of each value, in tile order.
void put_column(std::byte* to, int bytes, const GroupField* fields, uint32_t (*value)(const GroupField&)) {
  for (int i = 0; i < kTileN; i++) {
    const uint32_t bits = value(fields[tile_feature(i)]);
    std::memcpy(to + static_cast<size_t>(i * bytes), &bits, static_cast<size_t>(bytes));  // little-endian
  }
}
uint32_t scale_bits(const GroupField& field) {
  return field.scale;
}
uint32_t offset_bits(const GroupField& field) {
  return field.offset;
}

}  // namespace

void encode_tile(WeightType type, const uint8_t* q, std::byte* tile) {
  const int bits = code_of(type).bits;
  if (code_of(type).levels == Levels::e4m3) {
    encode_float_tile(q, reinterpret_cast<uint8_t*>(tile));
    return;
  }
  for (int lane = 0; lane < 32; lane++) {
    const int g = lane / 4, t = lane % 4;
    uint32_t fields[2] = {};
    for (int j = 0; j < 4; j++) {
      const uint8_t* low = q + (16 * j + g) * kTileK + 2 * t;  // of h 0
      const uint8_t* high = low + 8 * kTileK;
      if (bits == 8) {
        for (int pair = 0; pair < 2; pair++, low += 8, high += 8) {
          const uint32_t word = low[0] | high[0] << 8 | low[1] << 16 | static_cast<uint32_t>(high[1]) << 24;
          std::memcpy(tile + pair * 512 + (lane * 4 + j) * 4, &word, 4);
        }
        continue;
      }
      const uint32_t levels[8] = {low[0], high[0], low[8], high[8], low[1], high[1], low[9], high[9]};
      uint32_t word = 0;
      for (int i = 0; i < 8; i++) {
        word |= (levels[i] & 15u) << (4 * i);
        fields[j / 2] |= (levels[i] >> 4 & 3u) << (kFieldOf[i % 4] + 8 * (j % 2) + 16 * (i / 4));
      }
      std::memcpy(tile + (lane * 4 + j) * 4, &word, 4);
    }
    if (bits == 6) std::memcpy(tile + kQ4TileBytes + lane * 8, fields, 8);
  }
}

void decode_tile(WeightType type, const std::byte* tile, uint8_t* q) {
  const int bits = code_of(type).bits;
  if (code_of(type).levels == Levels::e4m3) {
    decode_float_tile(reinterpret_cast<const uint8_t*>(tile), q);
    return;
  }
  if (bits == 8) {
    for_bytes([&](int at, int shift, int n, int k) {
      q[n * kTileK + k] = static_cast<uint8_t>(get_bits(tile + at, shift, 255));
    });
    return;
  }
  for_nibbles([&](int at, int shift, int n, int k) {
    q[n * kTileK + k] = static_cast<uint8_t>(get_bits(tile + at, shift, 15));
  });
  if (bits == 4) return;
  for_pairs_of_bits([&](int at, int shift, int n, int k) {
    q[n * kTileK + k] |= static_cast<uint8_t>(get_bits(tile + kQ4TileBytes + at, shift, 3) << 4);
  });
}

void encode_group(const MatrixCode& code, const GroupField* fields, std::byte* header) {
  const Code& traits = code.traits();
  put_column(header, traits.scale_bytes(), fields, scale_bits);
  const int offset = traits.header_bytes(code.zeros) / kTileN - traits.scale_bytes();
  if (offset > 0) put_column(header + kTileN * traits.scale_bytes(), offset, fields, offset_bits);
}

void encode_span(const MatrixCode& code, const SpanField* fields, std::byte* header) {
  const Code& traits = code.traits();
  const int scale = traits.scales == Scales::nv ? 4 : 2;
  if (traits.span_bytes() == 0) return;
  put_column(header, scale, fields, scale_bits);
  if (traits.offsets == Offsets::two_level) put_column(header + kTileN * scale, 2, fields, offset_bits);
}

float e4m3_to_float(uint8_t bits) {
  const int exponent = bits >> 3 & 15, mantissa = bits & 7;
  if (exponent == 15 && mantissa == 7) return std::numeric_limits<float>::quiet_NaN();
  const float size = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                                   : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  return bits & 0x80 ? -size : size;
}

GroupValues values_of(const MatrixCode& code, const GroupField& field, const SpanField& span) {
  const Code& traits = code.traits();
  GroupValues out;
  switch (traits.scales) {
    case Scales::none:
      break;
    case Scales::half: {
      const auto bits = static_cast<uint16_t>(field.scale);
      out.scale = code.scale == ScaleType::f16 ? half_to_float(bits) : bfloat16_to_float(bits);
      break;
    }
    case Scales::f32:
      out.scale = std::bit_cast<float>(field.scale);
      break;
    case Scales::e8m0:
      out.scale = std::ldexp(1.0f, static_cast<int>(field.scale) - 128);
      break;
    case Scales::two_level:
      out.scale =
          half_to_float(static_cast<uint16_t>(span.scale)) * static_cast<float>(static_cast<int8_t>(field.scale));
      break;
    case Scales::nv:
      out.scale = std::bit_cast<float>(span.scale) * e4m3_to_float(static_cast<uint8_t>(field.scale));
      break;
  }
  switch (traits.offsets) {
    case Offsets::constant:
      out.zero = code.zeros ? field.offset : traits.zero;
      break;
    case Offsets::minimum:
      out.minimum = half_to_float(field.offset);
      break;
    case Offsets::two_level:
      out.minimum = half_to_float(span.offset) * static_cast<float>(static_cast<int8_t>(field.offset));
      break;
  }
  return out;
}

float level_of(const Code& traits, uint8_t bits, int zero) {
  switch (traits.levels) {
    case Levels::e4m3:
      return e4m3_to_float(bits);
    case Levels::table:
      return static_cast<float>(traits.table[bits & 15]);
    default:
      return static_cast<float>(bits - zero);
  }
}

GroupValues decode_group(const MatrixLayout& m, const std::byte* matrix, int row_block, int group, int n) {
  const Code& traits = m.code.traits();
  const std::byte* header = matrix + m.group_offset(row_block, group);
  const auto get = [&](const std::byte* from, int bytes) {
    uint32_t bits = 0;
    std::memcpy(&bits, from + static_cast<size_t>(tile_index(n) * bytes), static_cast<size_t>(bytes));
    return bits;
  };
  const int offset = traits.header_bytes(m.code.zeros) / kTileN - traits.scale_bytes();
  GroupField field{get(header, traits.scale_bytes()), 0};
  if (offset > 0) field.offset = static_cast<uint16_t>(get(header + kTileN * traits.scale_bytes(), offset));
  SpanField span;
  if (traits.span_bytes() > 0) {
    const std::byte* from = matrix + m.span_offset(row_block, group * m.code.group / traits.span());
    const int scale = traits.scales == Scales::nv ? 4 : 2;
    span.scale = get(from, scale);
    if (traits.offsets == Offsets::two_level) span.offset = static_cast<uint16_t>(get(from + kTileN * scale, 2));
  }
  return values_of(m.code, field, span);
}

void decode_row_block(const MatrixLayout& m, const std::byte* slab, int row_block, float* out) {
  const int rb = row_block, features = std::min(kTileN, m.n - rb * kTileN);
  std::fill(out, out + static_cast<size_t>(features) * m.k, 0.0f);
  const std::byte* base = slab + m.offset;
  std::vector<int32_t> permutation(m.k_stored);
  if (m.code.permuted) {
    std::memcpy(permutation.data(), slab + m.permutation_offset, permutation.size() * sizeof(int32_t));
  } else {
    for (int i = 0; i < m.k_stored; i++) permutation[i] = i < m.k ? i : kPadding;
  }
  float tile[kTileN * kTileK];
  for (int s = 0; s < m.slices(); s++) {
    const std::byte* source = base + m.tile_offset(rb, s);
    if (m.grouped()) {
      const Code& traits = m.code.traits();
      uint8_t q[kTileN * kTileK];
      decode_tile(m.code.type, source, q);
      for (int n = 0; n < kTileN; n++) {
        const GroupValues values = decode_group(m, base, rb, s * kTileK / m.code.group, n);
        for (int k = 0; k < kTileK; k++) {
          const float level = level_of(traits, q[n * kTileK + k], values.zero);
          tile[n * kTileK + k] = values.scale * level + (traits.minimums() ? values.minimum : 0.0f);
        }
      }
    } else {
      uint32_t raw[kTileN * kTileK];
      uint16_t narrow[kTileN * kTileK];
      if (m.code.type == WeightType::f32) {
        decode_float_tile(reinterpret_cast<const uint32_t*>(source), raw);
      } else {
        decode_float_tile(reinterpret_cast<const uint16_t*>(source), narrow);
      }
      for (int i = 0; i < kTileN * kTileK; i++) {
        tile[i] = m.code.type == WeightType::f32   ? std::bit_cast<float>(raw[i])
                  : m.code.type == WeightType::f16 ? half_to_float(narrow[i])
                                                   : bfloat16_to_float(narrow[i]);
      }
    }
    for (int n = 0; n < features; n++) {
      for (int k = 0; k < kTileK; k++) {
        const int32_t feature = permutation[s * kTileK + k];
        if (feature != kPadding) out[static_cast<size_t>(n) * m.k + feature] += tile[n * kTileK + k];
      }
    }
  }
}

std::vector<float> decode_matrix(const MatrixLayout& m, const std::byte* slab) {
  std::vector<float> out(static_cast<size_t>(m.n) * m.k);
  for (int rb = 0; rb < m.n_blocks(); rb++) {
    decode_row_block(m, slab, rb, out.data() + static_cast<size_t>(rb) * kTileN * m.k);
  }
  return out;
}

}  // namespace millrace
