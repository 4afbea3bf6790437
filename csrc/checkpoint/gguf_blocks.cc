#include "checkpoint/gguf_blocks.h"

#include <cmath>
#include <cstring>
#include <iterator>
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

GroupField first_half(const uint8_t* b, int) {
  return {half_at(b), 0};
}
GroupField first_halves(const uint8_t* b, int) {
  return {half_at(b), half_at(b + 2)};
}
GroupField six_bits_of_k(const uint8_t* b, int group) {
  return six_bits(b + 4, group);
}
SpanField scale_and_minimum(const uint8_t* b) {
  return {half_at(b), negative(half_at(b + 2))};
}
SpanField none(const uint8_t*) {
  return {};
}

// ---- Types, where functions of a line do not say all

void q3_k_levels(const uint8_t* b, uint8_t* out) {
  two_bits(b + 32, out);
  for (int e = 0; e < 256; e++) out[e] = static_cast<uint8_t>(out[e] | (b[e % 32] >> (e / 32) & 1) << 2);
}
GroupField q3_k_group(const uint8_t* b, int group) {
  const uint8_t* scales = b + 96;
  const int low = group < 8 ? scales[group] & 15 : scales[group - 8] >> 4;
  const int high = scales[8 + group % 4] >> (2 * (group / 4)) & 3;
  return {signed_bits((low | high << 4) - 32), 0};
}

void q5_k_levels(const uint8_t* b, uint8_t* out) {
  nibbles_of_pairs(b + 48, out);
  for (int e = 0; e < 256; e++) out[e] = static_cast<uint8_t>(out[e] | (b[16 + e % 32] >> (e / 32) & 1) << 4);
}

void q6_k_levels(const uint8_t* b, uint8_t* out) {
  for (int e = 0; e < 256; e++) {
    const int c = e / 128, j = e % 128 / 32, l = e % 32;
    const int low = b[64 * c + 32 * (j % 2) + l] >> (4 * (j / 2)) & 15, high = b[128 + 32 * c + l] >> (2 * j) & 3;
    out[e] = static_cast<uint8_t>(low | high << 4);
  }
}

void iq4_xs_levels(const uint8_t* b, uint8_t* out) {
  for (int s = 0; s < 8; s++) nibbles(b + 8 + 16 * s, out + 32 * s);
}
GroupField iq4_xs_group(const uint8_t* b, int group) {
  const int low = b[4 + group / 2] >> (4 * (group % 2)) & 15, high = load<uint16_t>(b + 2) >> (2 * group) & 3;
  return {signed_bits((low | high << 4) - 32), 0};
}

// A ternary weight is q - 1, in q4 level - 8.
constexpr uint8_t kTernaryZero = 8 - 1;

void tq2_0_levels(const uint8_t* b, uint8_t* out) {
  two_bits(b, out);
  for (int e = 0; e < 256; e++) out[e] = static_cast<uint8_t>(out[e] + kTernaryZero);
}

// `digits` base-3 digits of each of `bytes` bytes, the first digits of all of them before the second: a byte is the
// fraction 0.d1 d2 d3 d4 d5 of 256, rounded up, so times 3 its first digit stands above the byte.
void base_3(const uint8_t* q, int bytes, int digits, uint8_t* out) {
  for (int i = 0; i < bytes; i++) {
    uint32_t fraction = q[i];
    for (int d = 0; d < digits; d++) {
      const uint32_t times = 3 * fraction;
      out[d * bytes + i] = static_cast<uint8_t>((times >> 8) + kTernaryZero);
      fraction = times & 255;
    }
  }
}
void tq1_0_levels(const uint8_t* b, uint8_t* out) {
  base_3(b, 32, 5, out);
  base_3(b + 32, 16, 5, out + 160);
  base_3(b + 48, 4, 4, out + 240);
}

// ---- All types

// A type of ggml in the terms of a code.
struct Blocks {
  DType type;
  WeightType code;
  int group;  // elements that slabs keep a scale for
  void (*levels)(const uint8_t* block, uint8_t* out);
  GroupField (*of_group)(const uint8_t* block, int group);
  SpanField (*of_span)(const uint8_t* block) = none;
};

using Byte = const uint8_t*;
constexpr Blocks kBlocks[] = {
    {DType::q4_0, WeightType::q4, 32, [](Byte b, uint8_t* out) { nibbles(b + 2, out); }, first_half},
    {DType::q4_1, WeightType::q4_1, 32, [](Byte b, uint8_t* out) { nibbles(b + 4, out); }, first_halves},
    {DType::q5_0, WeightType::q5_0, 32, [](Byte b, uint8_t* out) { five_bits(b + 2, b + 6, out); }, first_half},
    {DType::q5_1, WeightType::q5_1, 32, [](Byte b, uint8_t* out) { five_bits(b + 4, b + 8, out); }, first_halves},
    {DType::q8_0, WeightType::q8, 32,
     [](Byte b, uint8_t* out) {
       for (int e = 0; e < 32; e++) out[e] = b[2 + e] ^ 0x80u;  // + 128
     },
     first_half},
    {DType::q2_k, WeightType::q2_k, 16, [](Byte b, uint8_t* out) { two_bits(b + 16, out); },
     [](Byte b, int group) -> GroupField {
       return {b[group] & 15u, static_cast<uint16_t>(b[group] >> 4)};
     },
     [](Byte b) -> SpanField {
       return {half_at(b + 80), negative(half_at(b + 82))};
     }},
    {DType::q3_k, WeightType::q3_k, 16, q3_k_levels, q3_k_group,
     [](Byte b) -> SpanField {
       return {half_at(b + 108), 0};
     }},
    {DType::q4_k, WeightType::q4_k, 32, [](Byte b, uint8_t* out) { nibbles_of_pairs(b + 16, out); }, six_bits_of_k,
     scale_and_minimum},
    {DType::q5_k, WeightType::q5_k, 32, q5_k_levels, six_bits_of_k, scale_and_minimum},
    {DType::q6_k, WeightType::q6_k, 16, q6_k_levels,
     [](Byte b, int group) -> GroupField {
       return {b[192 + group], 0};
     },
     [](Byte b) -> SpanField {
       return {half_at(b + 208), 0};
     }},
    {DType::iq4_nl, WeightType::iq4_nl, 32, [](Byte b, uint8_t* out) { nibbles(b + 2, out); }, first_half},
    {DType::iq4_xs, WeightType::iq4_xs, 32, iq4_xs_levels, iq4_xs_group,
     [](Byte b) -> SpanField {
       return {half_at(b), 0};
     }},
    {DType::mxfp4, WeightType::mxfp4, 32, [](Byte b, uint8_t* out) { nibbles(b + 1, out); },
     [](Byte b, int) -> GroupField {
       return {b[0], 0};
     }},
    // The group that the kernels of q4 know best: a block's scale is stored twice.
    {DType::tq1_0, WeightType::q4, 128, tq1_0_levels,
     [](Byte b, int) -> GroupField {
       return {half_at(b + 52), 0};
     }},
    {DType::tq2_0, WeightType::q4, 128, tq2_0_levels,
     [](Byte b, int) -> GroupField {
       return {half_at(b + 64), 0};
     }},
};

// blocks_of() looks up by value.
static_assert([] {
  constexpr size_t first = static_cast<size_t>(kFirstPacked);
  for (size_t i = 0; i < std::size(kBlocks); i++) {
    if (static_cast<size_t>(kBlocks[i].type) != first + i) return false;
  }
  return first + std::size(kBlocks) == static_cast<size_t>(DType::other);
}());

const Blocks& blocks_of(DType type) {
  if (!is_packed(type)) throw Error(code::kInternal, format("no blocks of %s", name_of(type)), "report this as a bug");
  return kBlocks[static_cast<size_t>(type) - static_cast<size_t>(kFirstPacked)];
}

const uint8_t* bytes_of(const std::byte* block) {
  return reinterpret_cast<const uint8_t*>(block);
}

}  // namespace

MatrixCode code_of_blocks(DType type) {
  MatrixCode out;
  out.type = blocks_of(type).code;
  out.group = blocks_of(type).group;
  return out;
}

void unpack_block(DType type, const std::byte* block, uint8_t* levels) {
  blocks_of(type).levels(bytes_of(block), levels);
}

GroupField group_of_block(DType type, const std::byte* block, int group) {
  return blocks_of(type).of_group(bytes_of(block), group);
}

SpanField span_of_block(DType type, const std::byte* block) {
  return blocks_of(type).of_span(bytes_of(block));
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
