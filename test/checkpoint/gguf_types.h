#pragma once
// ggml's packed types as the format has them: written from its definitions, beside the reader's own tables.
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "checkpoint/dtype.h"
#include "core/half.h"

namespace millrace::testing {

struct PackedType {
  uint32_t number;  // ggml's
  DType type;
  const char* name;
  int elements;  // of a block
  int bytes;
  std::vector<int> halves;  // where a block has its float16 scales
};

inline const std::vector<PackedType>& packed_types() {
  static const std::vector<PackedType> types = {
      {2, DType::q4_0, "Q4_0", 32, 18, {0}},       {3, DType::q4_1, "Q4_1", 32, 20, {0, 2}},
      {6, DType::q5_0, "Q5_0", 32, 22, {0}},       {7, DType::q5_1, "Q5_1", 32, 24, {0, 2}},
      {8, DType::q8_0, "Q8_0", 32, 34, {0}},       {10, DType::q2_k, "Q2_K", 256, 84, {80, 82}},
      {11, DType::q3_k, "Q3_K", 256, 110, {108}},  {12, DType::q4_k, "Q4_K", 256, 144, {0, 2}},
      {13, DType::q5_k, "Q5_K", 256, 176, {0, 2}}, {14, DType::q6_k, "Q6_K", 256, 210, {208}},
      {20, DType::iq4_nl, "IQ4_NL", 32, 18, {0}},  {23, DType::iq4_xs, "IQ4_XS", 256, 136, {0}},
      {34, DType::tq1_0, "TQ1_0", 256, 54, {52}},  {35, DType::tq2_0, "TQ2_0", 256, 66, {64}},
      {39, DType::mxfp4, "MXFP4", 32, 17, {}}};
  return types;
}

// A block of random bits whose scales are `scale()`, in float16.
template <typename Random, typename Scale>
void fill_block(const PackedType& type, Random& random, std::byte* block, Scale&& scale) {
  for (int i = 0; i < type.bytes; i++) block[i] = static_cast<std::byte>(random());
  if (type.type == DType::mxfp4) block[0] = static_cast<std::byte>(120 + random() % 8);
  for (const int at : type.halves) {
    const uint16_t bits = float_to_half(scale());
    std::memcpy(block + at, &bits, sizeof(bits));
  }
}

}  // namespace millrace::testing
