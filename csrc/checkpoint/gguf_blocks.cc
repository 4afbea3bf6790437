#include "checkpoint/gguf_blocks.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "core/error.h"
#include "core/half.h"

namespace millrace {

namespace {

template <typename T>
T load(const uint8_t* from) {
  T value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

float half_at(const uint8_t* from) {
  return half_to_float(load<uint16_t>(from));
}

// Element e of 32 in 16 bytes.
int nibble(const uint8_t* q, int e) {
  return e < 16 ? q[e] & 15 : q[e - 16] >> 4;
}

void decode_q4_0(const uint8_t* b, float* y) {
  const float d = half_at(b);
  for (int e = 0; e < 32; e++) y[e] = d * static_cast<float>(nibble(b + 2, e) - 8);
}

void decode_q4_1(const uint8_t* b, float* y) {
  const float d = half_at(b), m = half_at(b + 2);
  for (int e = 0; e < 32; e++) y[e] = d * static_cast<float>(nibble(b + 4, e)) + m;
}

int five_bits(const uint8_t* fifth, const uint8_t* q, int e) {
  return nibble(q, e) | static_cast<int>((load<uint32_t>(fifth) >> e) & 1u) << 4;
}

void decode_q5_0(const uint8_t* b, float* y) {
  const float d = half_at(b);
  for (int e = 0; e < 32; e++) y[e] = d * static_cast<float>(five_bits(b + 2, b + 6, e) - 16);
}

void decode_q5_1(const uint8_t* b, float* y) {
  const float d = half_at(b), m = half_at(b + 2);
  for (int e = 0; e < 32; e++) y[e] = d * static_cast<float>(five_bits(b + 4, b + 8, e)) + m;
}

void decode_q8_0(const uint8_t* b, float* y) {
  const float d = half_at(b);
  for (int e = 0; e < 32; e++) y[e] = d * static_cast<float>(static_cast<int8_t>(b[2 + e]));
}

void decode_iq4_nl(const uint8_t* b, float* y) {
  const float d = half_at(b);
  for (int e = 0; e < 32; e++) y[e] = d * static_cast<float>(kIq4Values[nibble(b + 2, e)]);
}

void decode_mxfp4(const uint8_t* b, float* y) {
  // Exponent 255 is E8M0's NaN.
  const float half = b[0] == 255 ? std::numeric_limits<float>::quiet_NaN() : std::ldexp(1.0f, b[0] - 128);
  for (int e = 0; e < 32; e++) y[e] = half * static_cast<float>(kE2m1Doubled[nibble(b + 1, e)]);
}

// Two bits of Q2_K and Q3_K: of each 128 elements, byte l holds elements l, l + 32, l + 64 and l + 96.
int two_bits(const uint8_t* q, int e) {
  return q[32 * (e / 128) + e % 32] >> (2 * (e % 128 / 32)) & 3;
}

void decode_q2_k(const uint8_t* b, float* y) {
  const float d = half_at(b + 80), dmin = half_at(b + 82);
  for (int e = 0; e < 256; e++) {
    const uint8_t scale = b[e / 16];
    const float q = static_cast<float>(two_bits(b + 16, e));
    y[e] = d * static_cast<float>(scale & 15) * q - dmin * static_cast<float>(scale >> 4);
  }
}

void decode_q3_k(const uint8_t* b, float* y) {
  const uint8_t* scales = b + 96;
  const float d = half_at(b + 108);
  for (int s = 0; s < 16; s++) {
    const int low = s < 8 ? scales[s] & 15 : scales[s - 8] >> 4, high = scales[8 + s % 4] >> (2 * (s / 4)) & 3;
    const float scale = d * static_cast<float>((low | high << 4) - 32);
    for (int e = 16 * s; e < 16 * s + 16; e++) {
      const int third = b[e % 32] >> (e / 32) & 1;
      y[e] = scale * static_cast<float>((two_bits(b + 32, e) | third << 2) - 4);
    }
  }
}

// Scale and minimum of sub-block s of Q4_K and Q5_K: of the first four the low 6 bits of bytes s and s + 4; of the
// others nibbles of byte s + 4, and what is left of the others' bytes.
void six_bits(const uint8_t* packed, int s, int* scale, int* minimum) {
  if (s < 4) {
    *scale = packed[s] & 63;
    *minimum = packed[s + 4] & 63;
  } else {
    *scale = (packed[s + 4] & 15) | packed[s - 4] >> 6 << 4;
    *minimum = packed[s + 4] >> 4 | packed[s] >> 6 << 4;
  }
}

// `fifth`: Q5_K's, bit s of byte l is that of element 32 s + l.
void decode_q4_or_q5_k(const uint8_t* b, const uint8_t* fifth, const uint8_t* q, float* y) {
  const float d = half_at(b), dmin = half_at(b + 2);
  for (int s = 0; s < 8; s++) {
    int scale, minimum;
    six_bits(b + 4, s, &scale, &minimum);
    const float by = d * static_cast<float>(scale), less = dmin * static_cast<float>(minimum);
    for (int l = 0; l < 32; l++) {
      const int low = q[32 * (s / 2) + l] >> (4 * (s % 2)) & 15;
      const int high = fifth == nullptr ? 0 : fifth[l] >> s & 1;
      y[32 * s + l] = by * static_cast<float>(low | high << 4) - less;
    }
  }
}

void decode_q4_k(const uint8_t* b, float* y) {
  decode_q4_or_q5_k(b, nullptr, b + 16, y);
}
void decode_q5_k(const uint8_t* b, float* y) {
  decode_q4_or_q5_k(b, b + 16, b + 48, y);
}

void decode_q6_k(const uint8_t* b, float* y) {
  const uint8_t *low = b, *high = b + 128;
  const float d = half_at(b + 208);
  for (int e = 0; e < 256; e++) {
    const int c = e / 128, j = e % 128 / 32, l = e % 32;
    const int q = (low[64 * c + 32 * (j % 2) + l] >> (4 * (j / 2)) & 15) | (high[32 * c + l] >> (2 * j) & 3) << 4;
    y[e] = d * static_cast<float>(static_cast<int8_t>(b[192 + e / 16])) * static_cast<float>(q - 32);
  }
}

void decode_iq4_xs(const uint8_t* b, float* y) {
  const float d = half_at(b);
  const int high = load<uint16_t>(b + 2);
  for (int s = 0; s < 8; s++) {
    const int scale = (b[4 + s / 2] >> (4 * (s % 2)) & 15) | (high >> (2 * s) & 3) << 4;
    const float by = d * static_cast<float>(scale - 32);
    for (int e = 0; e < 32; e++) y[32 * s + e] = by * static_cast<float>(kIq4Values[nibble(b + 8 + 16 * s, e)]);
  }
}

using Decode = void (*)(const uint8_t*, float*);

Decode decoder_of(DType type) {
  switch (type) {
    case DType::q4_0:
      return decode_q4_0;
    case DType::q4_1:
      return decode_q4_1;
    case DType::q5_0:
      return decode_q5_0;
    case DType::q5_1:
      return decode_q5_1;
    case DType::q8_0:
      return decode_q8_0;
    case DType::q2_k:
      return decode_q2_k;
    case DType::q3_k:
      return decode_q3_k;
    case DType::q4_k:
      return decode_q4_k;
    case DType::q5_k:
      return decode_q5_k;
    case DType::q6_k:
      return decode_q6_k;
    case DType::iq4_nl:
      return decode_iq4_nl;
    case DType::iq4_xs:
      return decode_iq4_xs;
    case DType::mxfp4:
      return decode_mxfp4;
    default:
      throw Error(code::kInternal, format("no blocks of %s", name_of(type)), "report this as a bug");
  }
}

}  // namespace

void decode_blocks(DType type, const std::byte* data, size_t blocks, float* out) {
  const Decode decode = decoder_of(type);
  const DTypeTraits& traits = traits_of(type);
  for (size_t i = 0; i < blocks; i++) {
    decode(reinterpret_cast<const uint8_t*>(data) + i * static_cast<size_t>(traits.block_bytes),
           out + i * static_cast<size_t>(traits.block));
  }
}

}  // namespace millrace
