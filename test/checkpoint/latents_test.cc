// What makes keys and values of latents as two tensors of a GGUF file, of any type: each feature where one matrix of
// both would have it.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "check.h"
#include "checkpoint/gguf_blocks.h"
#include "checkpoint/linear_reader.h"
#include "core/error.h"
#include "core/half.h"
#include "gguf_types.h"
#include "gguf_writer.h"
#include "tiny_model.h"

using namespace millrace;
using namespace millrace::testing;

namespace {

constexpr int kHeads = 3, kRank = 256, kNope = 32, kValueDim = 40;

struct Stored {
  std::string bytes;
  uint32_t number = 0;        // of its type
  std::vector<float> values;  // that it stands for
};

Stored random_of(DType type, size_t count, std::mt19937_64& random) {
  Stored out;
  const DTypeTraits& traits = traits_of(type);
  out.bytes.resize(count / static_cast<size_t>(traits.block) * static_cast<size_t>(traits.block_bytes));
  out.values.resize(count);
  auto* bytes = reinterpret_cast<std::byte*>(out.bytes.data());
  if (is_packed(type)) {
    const PackedType& packed = *std::find_if(packed_types().begin(), packed_types().end(),
                                             [&](const PackedType& t) { return t.type == type; });
    out.number = packed.number;
    for (size_t at = 0; at < out.bytes.size(); at += packed.bytes) {
      fill_block(packed, random, bytes + at, [&] { return 0.01f + static_cast<float>(random() % 100) / 10000; });
    }
    decode_blocks(type, bytes, count / static_cast<size_t>(traits.block), out.values.data());
    return out;
  }
  out.number = type == DType::f32 ? 0 : type == DType::f16 ? 1 : 30;
  for (size_t i = 0; i < count; i++) {
    const float value = static_cast<float>(random() % 2000) / 1000 - 1;
    const uint16_t bits = type == DType::f16 ? float_to_half(value) : float_to_bfloat16(value);
    if (type == DType::f32) {
      std::memcpy(bytes + 4 * i, &value, 4);
    } else {
      std::memcpy(bytes + 2 * i, &bits, 2);
    }
    out.values[i] = type == DType::f32 ? value : type == DType::f16 ? half_to_float(bits) : bfloat16_to_float(bits);
  }
  return out;
}

LinearSource source_of() {
  LinearSource source;
  source.weight = "v";
  source.keys = "k";
  return source;
}

void write(const TempFolder& folder, const Stored& keys, const Stored& values, int heads_of_keys = kHeads) {
  GgufWriter writer;
  writer.tensor("k", {heads_of_keys, kRank, kNope}, keys.number, keys.bytes);
  writer.tensor("v", {kHeads, kValueDim, kRank}, values.number, values.bytes);
  write_file(folder / "model.gguf", writer.bytes());
}

float element(const LinearReader& reader, const std::byte* from, int i) {
  if (reader.code().type == WeightType::f32) return load_element<float>(from, static_cast<size_t>(i));
  const auto bits = load_element<uint16_t>(from, static_cast<size_t>(i));
  return reader.code().type == WeightType::f16 ? half_to_float(bits) : bfloat16_to_float(bits);
}

}  // namespace

TEST(keys_are_turned_over_and_values_follow_them) {
  std::mt19937_64 random(check::seed());
  const std::pair<DType, DType> types[] = {
      {DType::f32, DType::f32},   {DType::bf16, DType::bf16}, {DType::f16, DType::f16}, {DType::q8_0, DType::q8_0},
      {DType::q8_0, DType::q4_k}, {DType::q4_0, DType::q6_k}, {DType::f32, DType::bf16}};
  for (const auto& [key_type, value_type] : types) {
    const TempFolder folder;
    const Stored keys = random_of(key_type, size_t{kHeads} * kRank * kNope, random);
    const Stored values = random_of(value_type, size_t{kHeads} * kValueDim * kRank, random);
    write(folder, keys, values);
    const Checkpoint checkpoint({folder / "model.gguf"});
    const auto reader = open_linear(checkpoint, source_of(), kHeads * (kNope + kValueDim), kRank);
    const bool alike = key_type == value_type && !is_packed(key_type);
    CHECK_EQ(name_of(reader->code().type), std::string(alike && key_type == DType::f32    ? "f32"
                                                       : alike && key_type == DType::bf16 ? "bf16"
                                                                                          : "f16"));
    reader->refuse_not_finite(0, reader->n());
    std::vector<std::byte> scratch(size_t{kRank} * 4);
    for (int n = 0; n < reader->n(); n++) {
      const int head = n / (kNope + kValueDim), feature = n % (kNope + kValueDim);
      const std::byte* row = reader->elements(n, 0, kRank, scratch.data());
      for (int r = 0; r < kRank; r++) {
        float expected = feature < kNope ? keys.values[(static_cast<size_t>(head) * kRank + r) * kNope + feature]
                                         : values.values[(size_t{kValueDim} * head + feature - kNope) * kRank + r];
        if (!alike) expected = half_to_float(float_to_half(expected));
        REQUIRE(element(*reader, row, r) == expected);
      }
    }
  }
}

TEST(tensors_that_do_not_match_are_refused) {
  std::mt19937_64 random(check::seed());
  const TempFolder folder;
  const Stored keys = random_of(DType::f32, size_t{kHeads} * kRank * kNope, random);
  Stored values = random_of(DType::f32, size_t{kHeads} * kValueDim * kRank, random);
  write(folder, keys, values);
  {
    const Checkpoint checkpoint({folder / "model.gguf"});
    CHECK_THROWS_CODE(open_linear(checkpoint, source_of(), kHeads * (kNope + kValueDim) + 1, kRank),
                      code::kCheckpointInvalid);
    CHECK_THROWS_CODE(open_linear(checkpoint, source_of(), kHeads * (kNope + kValueDim), kRank / 2),
                      code::kCheckpointInvalid);
  }
  const float infinity = INFINITY;
  std::memcpy(values.bytes.data() + 4 * (size_t{kValueDim} * kRank + 5), &infinity, 4);
  write(folder, keys, values);
  const Checkpoint checkpoint({folder / "model.gguf"});
  const auto reader = open_linear(checkpoint, source_of(), kHeads * (kNope + kValueDim), kRank);
  reader->refuse_not_finite(0, kNope + kValueDim + kNope);
  CHECK_THROWS_CODE(reader->refuse_not_finite(0, reader->n()), code::kCheckpointInvalid);
}
