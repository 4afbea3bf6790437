#include "model/slab_layout.h"

#include <cstring>

#include "core/error.h"
#include "core/half.h"
#include "core/memory.h"

namespace millrace {

size_t element_bytes(WeightType type) {
  switch (type) {
    case WeightType::f16:
    case WeightType::bf16:
      return 2;
    case WeightType::f32:
      return 4;
    case WeightType::q4:
      break;
  }
  throw Error(code::kInternal, "element_bytes of a packed type", "report this as a bug");
}

const char* name_of(WeightType type) {
  switch (type) {
    case WeightType::q4:
      return "q4";
    case WeightType::f16:
      return "f16";
    case WeightType::bf16:
      return "bf16";
    case WeightType::f32:
      return "f32";
  }
  return "?";
}

const char* name_of(const MatrixCode& code) {
  return code.type == WeightType::q4 && code.nibbles == 2 ? "q8" : name_of(code.type);
}

size_t MatrixLayout::row_block_bytes() const {
  if (code.type == WeightType::q4) {
    return groups() * group_header_bytes() + static_cast<size_t>(slices()) * kQ4TileBytes;
  }
  return static_cast<size_t>(slices()) * kTileN * kTileK * element_bytes(code.type);
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
  if (k_stored % kTileK != 0 || (code.type == WeightType::q4 && (code.group <= 0 || code.group % kTileK != 0))) {
    throw Error(code::kInternal, format("matrix layout of %d stored features in groups of %d", k_stored, code.group),
                "report this as a bug");
  }
  m.bytes = m.row_block_bytes() * m.n_blocks();
  return m;
}

void encode_q4_tile(const uint8_t* q, std::byte* tile) {
  for (int lane = 0; lane < 32; lane++) {
    const int g = lane / 4, t = lane % 4;
    for (int j = 0; j < 4; j++) {
      uint32_t word = 0;
      for (int i = 0; i < 8; i++) {
        const int n = 16 * j + 8 * (i % 2) + g;
        const int k = 2 * t + 8 * ((i / 2) % 2) + i / 4;
        word |= static_cast<uint32_t>(q[n * kTileK + k] & 15u) << (4 * i);
      }
      std::memcpy(tile + (lane * 4 + j) * 4, &word, 4);
    }
  }
}

void decode_q4_tile(const std::byte* tile, uint8_t* q) {
  for (int lane = 0; lane < 32; lane++) {
    const int g = lane / 4, t = lane % 4;
    for (int j = 0; j < 4; j++) {
      uint32_t word;
      std::memcpy(&word, tile + (lane * 4 + j) * 4, 4);
      for (int i = 0; i < 8; i++) {
        const int n = 16 * j + 8 * (i % 2) + g;
        const int k = 2 * t + 8 * ((i / 2) % 2) + i / 4;
        q[n * kTileK + k] = (word >> (4 * i)) & 15u;
      }
    }
  }
}

size_t q4_group_offset(const MatrixLayout& m, int row_block, int group) {
  return row_block * m.row_block_bytes() + group * m.group_bytes();
}

size_t q4_tile_offset(const MatrixLayout& m, int row_block, int slice) {
  const int per_group = m.code.group / kTileK;
  return q4_group_offset(m, row_block, slice / per_group) + m.group_header_bytes() +
         static_cast<size_t>(slice % per_group) * kQ4TileBytes;
}

size_t float_tile_offset(const MatrixLayout& m, int row_block, int slice) {
  return row_block * m.row_block_bytes() + static_cast<size_t>(slice) * kTileN * kTileK * element_bytes(m.code.type);
}

std::vector<int32_t> nibble_permutation(int k, int k_stored, int group) {
  std::vector<int32_t> features(static_cast<size_t>(k_stored));
  for (int i = 0; i < k_stored; i++) {
    const int feature = i / (2 * group) * group + i % group;
    features[static_cast<size_t>(i)] = feature < k ? feature : kPadding;
  }
  return features;
}

std::vector<float> decode_matrix(const MatrixLayout& m, const std::byte* slab) {
  std::vector<float> out(static_cast<size_t>(m.n) * m.k, 0.0f);
  const std::byte* base = slab + m.offset;
  std::vector<int32_t> permutation(m.k_stored);
  if (m.code.permuted) {
    std::memcpy(permutation.data(), slab + m.permutation_offset, permutation.size() * sizeof(int32_t));
  } else {
    for (int i = 0; i < m.k_stored; i++) permutation[i] = i < m.k ? i : kPadding;
  }
  float tile[kTileN * kTileK];
  for (int rb = 0; rb < m.n_blocks(); rb++) {
    for (int s = 0; s < m.slices(); s++) {
      if (m.code.type == WeightType::q4) {
        uint8_t q[kTileN * kTileK];
        decode_q4_tile(base + q4_tile_offset(m, rb, s), q);
        const std::byte* group = base + q4_group_offset(m, rb, s * kTileK / m.code.group);
        for (int n = 0; n < kTileN; n++) {
          uint16_t bits;
          std::memcpy(&bits, group + tile_index(n) * 2, 2);
          const float scale = m.code.scale == ScaleType::f16 ? half_to_float(bits) : bfloat16_to_float(bits);
          const int zero = m.code.zeros ? static_cast<int>(group[128 + tile_index(n)]) : 8;
          for (int k = 0; k < kTileK; k++) {
            tile[n * kTileK + k] = scale * static_cast<float>(static_cast<int>(q[n * kTileK + k]) - zero);
          }
        }
      } else {
        const std::byte* source = base + float_tile_offset(m, rb, s);
        for (int j = 0, e = 0; j < 4; j++) {
          for (int lane = 0; lane < 32; lane++) {
            for (int i = 0; i < 8; i++, e++) {
              const int n = 16 * j + 8 * ((i / 2) % 2) + lane / 4;
              const int k = 2 * (lane % 4) + 8 * (i / 4) + i % 2;
              float value;
              if (m.code.type == WeightType::f32) {
                std::memcpy(&value, source + e * 4, 4);
              } else {
                uint16_t bits;
                std::memcpy(&bits, source + e * 2, 2);
                value = m.code.type == WeightType::f16 ? half_to_float(bits) : bfloat16_to_float(bits);
              }
              tile[n * kTileK + k] = value;
            }
          }
        }
      }
      for (int n = 0; n < kTileN && rb * kTileN + n < m.n; n++) {
        for (int k = 0; k < kTileK; k++) {
          const int32_t feature = permutation[s * kTileK + k];
          if (feature != kPadding) out[static_cast<size_t>(rb * kTileN + n) * m.k + feature] += tile[n * kTileK + k];
        }
      }
    }
  }
  return out;
}

}  // namespace millrace
