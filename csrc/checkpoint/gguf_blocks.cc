#include "checkpoint/gguf_blocks.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "core/error.h"

namespace millrace {

namespace {

template <typename T>
T load(const uint8_t* from) {
  T value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

uint16_t half_at(const uint8_t* from) {
  return load<uint16_t>(from);
}
uint16_t negative(uint16_t half) {
  return half ^ 0x8000u;
}

// ---- Levels

// Elements 0..15 of 16 bytes are low nibbles, the others high ones.
void nibbles(const uint8_t* q, uint8_t* out) {
  for (int e = 0; e < 16; e++) {
    out[e] = q[e] & 15;
    out[16 + e] = q[e] >> 4;
  }
}

void five_bits(const uint8_t* fifth, const uint8_t* q, uint8_t* out) {
  nibbles(q, out);
  const auto bits = load<uint32_t>(fifth);
  for (int e = 0; e < 32; e++) out[e] = static_cast<uint8_t>(out[e] | (bits >> e & 1u) << 4);
}

// Two bits of Q2_K and Q3_K: of each 128 elements, byte l holds elements l, l + 32, l + 64 and l + 96.
void two_bits(const uint8_t* q, uint8_t* out) {
  for (int e = 0; e < 256; e++) out[e] = q[32 * (e / 128) + e % 32] >> (2 * (e % 128 / 32)) & 3;
}

// Nibbles of Q4_K and Q5_K: sub-blocks 2 i and 2 i + 1 are the low and the high ones of 32 bytes.
void nibbles_of_pairs(const uint8_t* q, uint8_t* out) {
  for (int s = 0; s < 8; s++) {
    for (int l = 0; l < 32; l++) out[32 * s + l] = q[32 * (s / 2) + l] >> (4 * (s % 2)) & 15;
  }
}

// ---- Scales

// Scale and minimum of sub-block s of Q4_K and Q5_K: of the first four the low 6 bits of bytes s and s + 4; of the
// others nibbles of byte s + 4, and what is left of the others' bytes.
GroupField six_bits(const uint8_t* packed, int s) {
  if (s < 4) return {packed[s] & 63u, static_cast<uint16_t>(packed[s + 4] & 63)};
  const uint32_t scale = (packed[s + 4] & 15u) | static_cast<uint32_t>(packed[s - 4] >> 6) << 4;
  return {scale, static_cast<uint16_t>(packed[s + 4] >> 4 | packed[s] >> 6 << 4)};
}

uint32_t signed_bits(int value) {
  return static_cast<uint8_t>(static_cast<int8_t>(value));
}

const uint8_t* bytes_of(const std::byte* block) {
  return reinterpret_cast<const uint8_t*>(block);
}

[[noreturn]] void no_blocks(DType type) {
  throw Error(code::kInternal, format("no blocks of %s", name_of(type)), "report this as a bug");
}

WeightType weight_type_of(DType type) {
  switch (type) {
    case DType::q4_0:
      return WeightType::q4;
    case DType::q4_1:
      return WeightType::q4_1;
    case DType::q5_0:
      return WeightType::q5_0;
    case DType::q5_1:
      return WeightType::q5_1;
    case DType::q8_0:
      return WeightType::q8;
    case DType::q2_k:
      return WeightType::q2_k;
    case DType::q3_k:
      return WeightType::q3_k;
    case DType::q4_k:
      return WeightType::q4_k;
    case DType::q5_k:
      return WeightType::q5_k;
    case DType::q6_k:
      return WeightType::q6_k;
    case DType::iq4_nl:
      return WeightType::iq4_nl;
    case DType::iq4_xs:
      return WeightType::iq4_xs;
    case DType::mxfp4:
      return WeightType::mxfp4;
    default:
      no_blocks(type);
  }
}

}  // namespace

MatrixCode code_of_blocks(DType type) {
  MatrixCode out;
  out.type = weight_type_of(type);
  out.group = groups_of(out.type).least;
  return out;
}

void unpack_block(DType type, const std::byte* block, uint8_t* levels) {
  const uint8_t* b = bytes_of(block);
  switch (type) {
    case DType::q4_0:
    case DType::iq4_nl:
      return nibbles(b + 2, levels);
    case DType::q4_1:
      return nibbles(b + 4, levels);
    case DType::q5_0:
      return five_bits(b + 2, b + 6, levels);
    case DType::q5_1:
      return five_bits(b + 4, b + 8, levels);
    case DType::q8_0:
      for (int e = 0; e < 32; e++) levels[e] = b[2 + e] ^ 0x80u;  // + 128
      return;
    case DType::mxfp4:
      return nibbles(b + 1, levels);
    case DType::q2_k:
      return two_bits(b + 16, levels);
    case DType::q3_k:
      two_bits(b + 32, levels);
      for (int e = 0; e < 256; e++) levels[e] = static_cast<uint8_t>(levels[e] | (b[e % 32] >> (e / 32) & 1) << 2);
      return;
    case DType::q4_k:
      return nibbles_of_pairs(b + 16, levels);
    case DType::q5_k:
      nibbles_of_pairs(b + 48, levels);
      for (int e = 0; e < 256; e++) levels[e] = static_cast<uint8_t>(levels[e] | (b[16 + e % 32] >> (e / 32) & 1) << 4);
      return;
    case DType::q6_k:
      for (int e = 0; e < 256; e++) {
        const int c = e / 128, j = e % 128 / 32, l = e % 32;
        const int low = b[64 * c + 32 * (j % 2) + l] >> (4 * (j / 2)) & 15, high = b[128 + 32 * c + l] >> (2 * j) & 3;
        levels[e] = static_cast<uint8_t>(low | high << 4);
      }
      return;
    case DType::iq4_xs:
      for (int s = 0; s < 8; s++) nibbles(b + 8 + 16 * s, levels + 32 * s);
      return;
    default:
      no_blocks(type);
  }
}

GroupField group_of_block(DType type, const std::byte* block, int group) {
  const uint8_t* b = bytes_of(block);
  switch (type) {
    case DType::q4_0:
    case DType::q5_0:
    case DType::q8_0:
    case DType::iq4_nl:
      return {half_at(b), 0};
    case DType::q4_1:
    case DType::q5_1:
      return {half_at(b), half_at(b + 2)};
    case DType::mxfp4:
      return {b[0], 0};
    case DType::q2_k:
      return {b[group] & 15u, static_cast<uint16_t>(b[group] >> 4)};
    case DType::q3_k: {
      const uint8_t* scales = b + 96;
      const int low = group < 8 ? scales[group] & 15 : scales[group - 8] >> 4;
      const int high = scales[8 + group % 4] >> (2 * (group / 4)) & 3;
      return {signed_bits((low | high << 4) - 32), 0};
    }
    case DType::q4_k:
    case DType::q5_k:
      return six_bits(b + 4, group);
    case DType::q6_k:
      return {b[192 + group], 0};
    case DType::iq4_xs: {
      const int low = b[4 + group / 2] >> (4 * (group % 2)) & 15, high = load<uint16_t>(b + 2) >> (2 * group) & 3;
      return {signed_bits((low | high << 4) - 32), 0};
    }
    default:
      no_blocks(type);
  }
}

SpanField span_of_block(DType type, const std::byte* block) {
  const uint8_t* b = bytes_of(block);
  switch (type) {
    case DType::q2_k:
      return {half_at(b + 80), negative(half_at(b + 82))};
    case DType::q3_k:
      return {half_at(b + 108), 0};
    case DType::q4_k:
    case DType::q5_k:
      return {half_at(b), negative(half_at(b + 2))};
    case DType::q6_k:
      return {half_at(b + 208), 0};
    case DType::iq4_xs:
      return {half_at(b), 0};
    default:
      return {};
  }
}

void decode_blocks(DType type, const std::byte* data, size_t blocks, float* out) {
  const DTypeTraits& shape = traits_of(type);
  const MatrixCode code = code_of_blocks(type);
  const Code& traits = code.traits();
  for (size_t i = 0; i < blocks; i++, data += shape.block_bytes) {
    uint8_t levels[256];
    unpack_block(type, data, levels);
    const SpanField span = span_of_block(type, data);
    for (int group = 0; group < shape.block / code.group; group++) {
      const GroupField field = group_of_block(type, data, group);
      GroupValues values = values_of(code, field, span);
      if (type == DType::mxfp4 && field.scale == 255) values.scale = std::numeric_limits<float>::quiet_NaN();
      for (int e = group * code.group; e < (group + 1) * code.group; e++) {
        const float scaled = values.scale * level_of(traits, levels[e], values.zero);
        *out++ = traits.minimums() ? scaled + values.minimum : scaled;
      }
    }
  }
}

}  // namespace millrace
