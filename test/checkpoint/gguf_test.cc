#include "checkpoint/gguf.h"

#include <cmath>
#include <set>
#include <tuple>

#include "check.h"
#include "checkpoint/gguf_blocks.h"
#include "core/error.h"
#include "gguf_types.h"
#include "gguf_writer.h"
#include "writer.h"

using namespace millrace;
using namespace millrace::testing;

namespace {

Gguf parse(const std::string& bytes) {
  return parse_gguf(bytes, bytes.size(), "folder/model.gguf");
}

// Refused with this code, and the message holds the file's name and all of `words`.
void refuse(const std::string& bytes, const std::vector<std::string>& words,
            const char* code = code::kCheckpointInvalid) {
  try {
    parse(bytes);
  } catch (const Error& error) {
    CHECK_EQ(std::string(error.code()), code);
    const std::string message = error.what();
    CHECK(message.find("model.gguf") != std::string::npos);
    for (const std::string& word : words) {
      if (message.find(word) == std::string::npos) check::fail(__FILE__, __LINE__, "'" + word + "' not in: " + message);
    }
    CHECK(!error.remedy().empty());
    return;
  }
  check::fail(__FILE__, __LINE__, "accepted, expected a refusal with: " + (words.empty() ? "" : words[0]));
}

const GgufPair& pair_of(const Gguf& gguf, const std::string& key) {
  for (const GgufPair& pair : gguf.pairs) {
    if (pair.key == key) return pair;
  }
  check::fail(__FILE__, __LINE__, "no pair " + key);
  throw check::Abandoned{};
}

}  // namespace

TEST(reads_pairs_and_tensors_of_versions_2_and_3) {
  for (const uint32_t version : {2u, 3u}) {
    GgufWriter writer;
    writer.version = version;
    writer.text("general.architecture", "llama").u32("llama.block_count", 7).texts("tokens", {"a", "", "b\xc3\xa9"});
    writer.tensor("norm", {3}, 0, std::string(12, 'n')).tensor("w", {2, 32}, 2, std::string(36, 'w'));
    const std::string bytes = writer.bytes();
    const Gguf gguf = parse(bytes);
    CHECK_EQ(gguf.version, version);
    REQUIRE(gguf.pairs.size() == 3);
    CHECK_EQ(std::string(pair_of(gguf, "general.architecture").bytes), "llama");
    CHECK(pair_of(gguf, "llama.block_count").type == GgufType::u32);
    const GgufPair& tokens = pair_of(gguf, "tokens");
    CHECK(tokens.type == GgufType::array && tokens.element == GgufType::string);
    CHECK_EQ(tokens.count, 3);
    CHECK_EQ(tokens.bytes.size(), 3 * 8 + 1 + 0 + 3);
    REQUIRE(gguf.tensors.size() == 2);
    CHECK(gguf.tensors[0].dtype == DType::f32);
    CHECK_EQ(gguf.tensors[1].name, "w");
    CHECK(gguf.tensors[1].dtype == DType::q4_0);
    CHECK(gguf.tensors[1].shape == std::vector<int64_t>({2, 32}));  // rows last in the file, first here
    CHECK_EQ(gguf.tensors[1].bytes, 36);
    CHECK_EQ(gguf.tensors[1].offset % 32, 0);
    CHECK_EQ(bytes[gguf.tensors[0].offset], 'n');
    CHECK_EQ(bytes[gguf.tensors[1].offset], 'w');
  }
}

TEST(a_vocabulary_alone_and_an_alignment_of_its_own) {
  CHECK_EQ(parse(GgufWriter().text("general.architecture", "llama").bytes()).tensors.size(), 0);
  for (const uint32_t alignment : {1u, 8u, 4096u}) {
    GgufWriter writer;
    writer.alignment = alignment;
    writer.u32("general.alignment", alignment).tensor("a", {1}, 0, "aaaa").tensor("b", {1}, 0, "bbbb");
    const std::string bytes = writer.bytes();
    const Gguf gguf = parse(bytes);
    CHECK_EQ(bytes[gguf.tensors[1].offset], 'b');
    CHECK_EQ(gguf.tensors[1].offset % alignment, 0);
  }
}

TEST(every_type_has_its_size) {
  std::vector<std::tuple<uint32_t, const char*, int, int>> types = {
      {0, "F32", 1, 4}, {1, "F16", 1, 2}, {24, "I8", 1, 1}, {26, "I32", 1, 4}, {28, "F64", 1, 8}, {30, "BF16", 1, 2}};
  for (const PackedType& type : packed_types()) types.emplace_back(type.number, type.name, type.elements, type.bytes);
  for (const auto& [number, name, elements, bytes] : types) {
    const int64_t k = 2 * elements;
    const Gguf gguf = parse(GgufWriter().tensor("t", {3, k}, number, std::string(6 * bytes, 0)).bytes());
    CHECK_EQ(gguf.tensors[0].type_name(), std::string(name));
    CHECK_EQ(gguf.tensors[0].bytes, 6 * bytes);
    if (elements == 1) continue;
    refuse(GgufWriter().tensor("odd", {3, k + 1}, number, std::string(9 * bytes, 0)).bytes(),
           {"tensor odd", name, std::to_string(elements)});
  }
}

TEST(a_type_that_is_not_read_is_no_fault_of_the_header) {
  const Gguf gguf = parse(GgufWriter()
                              .tensor("known", {8}, 0, std::string(32, 0))
                              .tensor("iq2", {256}, 16, std::string(66, 0))
                              .tensor("strange", {5}, 77, std::string(40, 0))
                              .bytes());
  CHECK_EQ(gguf.tensors[1].type_name(), "IQ2_XXS");
  CHECK_EQ(gguf.tensors[2].type_name(), "type 77");
  CHECK(gguf.tensors[2].dtype == DType::other);
}

TEST(other_formats_and_versions_are_refused_by_name) {
  const char* unsupported = code::kCheckpointUnsupported;
  GgufWriter writer;
  writer.version = 1;
  refuse(writer.bytes(), {"version 1"}, unsupported);
  writer.version = 4;
  refuse(writer.bytes(), {"version 4"}, unsupported);
  writer.version = 0x03000000;
  refuse(writer.bytes(), {"big-endian"}, unsupported);
  refuse(std::string("tjgg\0\0\0\0", 8), {"before GGUF"}, unsupported);
  refuse("PK\x03\x04 something else", {"'GGUF'"});
  refuse("", {"'GGUF'"});
  refuse("version https://git-lfs.github.com/spec/v1\n", {"Git LFS"});
}

TEST(every_cut_is_told) {
  GgufWriter writer;
  writer.text("general.architecture", "llama").texts("tokens", {"one", "two"}).f32s("scores", {1, 2});
  writer.tensor("norm", {3}, 0, std::string(12, 'n')).tensor("w", {32}, 2, std::string(18, 'w'));
  const std::string whole = writer.bytes();
  parse(whole);
  const size_t end = whole.rfind('w') + 1;
  for (size_t size = 0; size < end; size++) refuse(whole.substr(0, size), {});
  parse(whole.substr(0, end));  // what is missing is padding
}

TEST(a_file_that_ends_before_its_data_begin_is_cut_short_whatever_its_tensors) {
  const std::string of_nothing = GgufWriter().tensor("t", {0}, 0, "").bytes();
  const std::string of_another_type = GgufWriter().tensor("t", {8}, 77, "").bytes();
  for (const std::string& whole : {of_nothing, of_another_type}) {
    parse(whole);
    refuse(whole.substr(0, 24 + 9 + 4 + 8 + 4 + 8), {"expected data from byte 64", "cut short"});  // all but padding
  }
}

TEST(counts_and_lengths_that_the_file_has_no_room_for) {
  const std::string whole = GgufWriter().text("k", "v").bytes();
  for (const uint64_t vast : {uint64_t{1} << 31, uint64_t{1} << 60, UINT64_MAX, UINT64_MAX / 13}) {
    refuse(with_u64(whole, 8, vast), {"tensors", std::to_string(vast)});
    refuse(with_u64(whole, 16, vast), {"metadata pairs", std::to_string(vast)});
    refuse(with_u64(whole, 24, vast), {"cut short"});  // the key's length
    refuse(with_u64(whole, 24 + 8 + 1 + 4, vast), {"metadata key k", "cut short"});
    for (const uint32_t element : {0u, 4u, 7u, 8u, 10u}) {  // an array's count
      GgufWriter writer;
      writer.raw("list", 9, u32_bytes(element) + u64_bytes(vast));
      refuse(writer.bytes(), {"metadata key list", "elements"});
    }
  }
}

TEST(types_of_metadata) {
  refuse(GgufWriter().raw("key", 13, std::string(64, 0)).bytes(), {"metadata key key", "13"});
  refuse(GgufWriter().raw("key", 9, u32_bytes(99) + u64_bytes(0)).bytes(), {"metadata key key", "99"});
  refuse(GgufWriter().raw("key", 9, u32_bytes(9) + u64_bytes(1) + u32_bytes(4) + u64_bytes(0)).bytes(),
         {"metadata key key", "array of arrays"}, code::kCheckpointUnsupported);
  refuse(GgufWriter().raw("key", 7, "\x02").bytes(), {"metadata key key", "boolean"});
  refuse(GgufWriter().raw("key", 9, u32_bytes(7) + u64_bytes(3) + std::string("\0\1\7", 3)).bytes(), {"boolean", "7"});
  refuse(GgufWriter().u32("twin", 1).u32("twin", 1).bytes(), {"twin", "twice"});
  for (const uint32_t alignment : {0u, 3u, 48u, 1u << 31}) {
    refuse(GgufWriter().u32("general.alignment", alignment).bytes(), {"general.alignment", std::to_string(alignment)});
  }
  refuse(GgufWriter().text("general.alignment", "32").bytes(), {"general.alignment", "UINT32"});
}

TEST(tensors_that_cannot_be) {
  const std::string four(4, 'x');
  refuse(GgufWriter().tensor("twin", {1}, 0, four).tensor("twin", {1}, 0, four).bytes(), {"twin", "twice"});
  refuse(GgufWriter().tensor("t", {1, 1, 1, 1, 1}, 0, four).bytes(), {"tensor t", "dimensions", "5"});
  refuse(GgufWriter().tensor("t", {int64_t{1} << 40, int64_t{1} << 40}, 0, four).bytes(), {"tensor t", "overflows"});
  refuse(GgufWriter().tensor("t", {INT64_MAX / 256 * 256}, 14, four).bytes(), {"tensor t"});
  refuse(GgufWriter().tensor("t", {-1}, 0, four).bytes(), {"tensor t", "18446744073709551615"});
  refuse(GgufWriter().tensor("t", {2}, 0, four).bytes().substr(0, 64), {"cut short"});
  // Offsets: not aligned, beyond the file, on another's data, and near the end of 64 bits.
  const auto at = [&](uint64_t offset) {
    return GgufWriter().tensor("one", {8}, 0, std::string(32, 'x')).tensor_at("two", {8}, 0, offset).bytes();
  };
  refuse(at(33), {"tensor two", "multiple of 32", "33"});
  refuse(at(0), {"where another's are"});
  refuse(at(32), {"tensor two", "cut short"});
  refuse(at(uint64_t{1} << 40), {"tensor two", "cut short"});
  refuse(at(UINT64_MAX - 31), {"tensor two", "cut short"});
}

TEST(a_checkpoint_of_parts_finds_tensors_by_name) {
  const TempFolder folder;
  write_file(folder / "a.gguf", GgufWriter().tensor("one", {1}, 0, "1111").bytes());
  write_file(folder / "b.gguf", GgufWriter().tensor("two", {1}, 0, "2222").bytes());
  const Checkpoint both({folder / "a.gguf", folder / "b.gguf"});
  CHECK(both.is_gguf(both.require("two")));
  CHECK_EQ(static_cast<char>(both.data(both.require("two"))[0]), '2');
  CHECK_THROWS_CODE(Checkpoint({folder / "a.gguf", folder / "a.gguf"}), code::kCheckpointInvalid);
  // By how it begins, whatever it is called; and by what it is called, however it begins.
  write_file(folder / "sha256-12", GgufWriter().tensor("one", {1}, 0, "1111").bytes());
  CHECK(Checkpoint({folder / "sha256-12"}).find("one") != nullptr);
  write_file(folder / "wrong.gguf", safetensors_bytes("{}", ""));
  CHECK_THROWS_CODE(Checkpoint({folder / "wrong.gguf"}), code::kCheckpointInvalid);
}

// Every pattern of bits is a value, and there is none that changes nothing.
TEST(every_bit_of_a_block_counts) {
  auto random = check::random();
  // All scales are 1, so that all values are finite.
  for (const PackedType& packed : packed_types()) {
    const DType type = packed.type;
    std::vector<std::byte> block(packed.bytes);
    std::vector<float> values(packed.elements), changed(packed.elements);
    std::set<int> quiet;  // bits that have changed nothing in any of the blocks
    for (int bit = 0; bit < 8 * packed.bytes; bit++) quiet.insert(bit);
    // The least bit of a byte of base-3 digits is not often one that carries.
    for (int round = 0; round < (type == DType::tq1_0 ? 64 : 8); round++) {
      fill_block(packed, random, block.data(), [] { return 1.0f; });
      decode_blocks(type, block.data(), 1, values.data());
      for (const float value : values) CHECK(std::isfinite(value));
      for (auto bit = quiet.begin(); bit != quiet.end();) {
        std::vector<std::byte> other = block;
        other[*bit / 8] ^= static_cast<std::byte>(1 << (*bit % 8));
        decode_blocks(type, other.data(), 1, changed.data());
        const bool differs = std::memcmp(changed.data(), values.data(), values.size() * sizeof(float)) != 0;
        bit = differs ? quiet.erase(bit) : std::next(bit);
      }
    }
    if (!quiet.empty()) check::fail(__FILE__, __LINE__, format("%s: bit %d is not read", packed.name, *quiet.begin()));
  }
}

TEST(blocks_by_hand) {
  // Q4_0: d = 2, byte 0 holds elements 0 (3) and 16 (15).
  std::byte q4[18] = {std::byte{0}, std::byte{0x40}, std::byte{0xf3}};
  float out[256];
  decode_blocks(DType::q4_0, q4, 1, out);
  CHECK_EQ(out[0], 2.0f * (3 - 8));
  CHECK_EQ(out[16], 2.0f * (15 - 8));
  CHECK_EQ(out[1], -16.0f);
  // MXFP4: 2^(128 - 127), 6 and -0.5; exponents 0 and 1 are subnormal halves, 255 is no number.
  std::byte mx[17] = {std::byte{128}, std::byte{0x97}};
  decode_blocks(DType::mxfp4, mx, 1, out);
  CHECK_EQ(out[0], 12.0f);
  CHECK_EQ(out[16], -1.0f);
  for (const int exponent : {0, 1, 254}) {
    mx[0] = static_cast<std::byte>(exponent);
    decode_blocks(DType::mxfp4, mx, 1, out);
    CHECK_EQ(out[16], std::ldexp(-0.5f, exponent - 127));
  }
  mx[0] = std::byte{255};
  decode_blocks(DType::mxfp4, mx, 1, out);
  CHECK(std::isnan(out[0]));
  // TQ2_0: d = 0.5; byte 1 holds elements 1 (3), 33 (1), 65 (2) and 97 (0).
  std::byte tq2[66] = {std::byte{0x55}, std::byte{0x27}};
  tq2[65] = std::byte{0x38};
  decode_blocks(DType::tq2_0, tq2, 1, out);
  for (const int e : {0, 32, 64, 96, 33}) CHECK_EQ(out[e], 0.0f);
  CHECK_EQ(out[1], 1.0f);
  CHECK_EQ(out[65], 0.5f);
  CHECK_EQ(out[97], -0.5f);
  // TQ1_0: a byte is its five digits' number, times 256 / 243, rounded up: 2 1 0 2 1 is 196, so 207; of the last four
  // bytes four digits count, 2 2 0 1 0 is 219, so 231.
  std::byte tq1[54] = {};
  tq1[3] = std::byte{207};
  tq1[32] = std::byte{207};
  tq1[49] = std::byte{231};
  tq1[53] = std::byte{0x3c};
  decode_blocks(DType::tq1_0, tq1, 1, out);
  const float digits[] = {1, 0, -1, 1, 0}, last[] = {1, 1, -1, 0};
  for (int d = 0; d < 5; d++) {
    CHECK_EQ(out[32 * d + 3], digits[d]);
    CHECK_EQ(out[160 + 16 * d], digits[d]);
  }
  for (int d = 0; d < 4; d++) CHECK_EQ(out[240 + 4 * d + 1], last[d]);
}
