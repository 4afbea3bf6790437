#include "checkpoint/safetensors.h"

#include <limits>

#include "check.h"
#include "core/error.h"
#include "writer.h"

using namespace millrace;
using namespace millrace::testing;

namespace {

std::vector<Tensor> parse(const std::string& header, const std::string& data = "") {
  const std::string file = safetensors_bytes(header, data);
  return parse_safetensors(file, file.size(), "folder/model.safetensors");
}

// Refused with this code, and the message holds the file's name and all of `words`.
void refuse_bytes(const std::string& file, const char* code, const std::vector<std::string>& words) {
  try {
    parse_safetensors(file, file.size(), "folder/model.safetensors");
  } catch (const Error& error) {
    CHECK_EQ(std::string(error.code()), code);
    const std::string message = error.what();
    CHECK(message.find("model.safetensors") != std::string::npos);
    for (const std::string& word : words) {
      if (message.find(word) == std::string::npos) check::fail(__FILE__, __LINE__, "'" + word + "' not in: " + message);
    }
    CHECK(!error.remedy().empty());
    return;
  }
  check::fail(__FILE__, __LINE__, "accepted: " + file.substr(8, 200));
}

void refuse(const std::string& header, const std::string& data, const std::vector<std::string>& words,
            const char* code = code::kCheckpointInvalid) {
  refuse_bytes(safetensors_bytes(header, data), code, words);
}

std::string entry(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return "{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}";
}

}  // namespace

TEST(reads_names_types_shapes_and_places) {
  const std::string header =
      "{\"__metadata__\":{\"format\":\"pt\",\"x\":\"\\u00e9\"},\"b\":" + entry("F16", "[2,3]", "[4,16]") +
      ",\"a\\n\\ud83d\\ude00\":" + entry("I32", "[1]", "[0,4]") + "}  ";
  const std::vector<Tensor> tensors = parse(header, std::string(16, 'x'));
  REQUIRE(tensors.size() == 2);
  CHECK_EQ(tensors[0].name, "b");
  CHECK(tensors[0].dtype == DType::f16);
  CHECK(tensors[0].shape == std::vector<int64_t>({2, 3}));
  CHECK_EQ(tensors[0].offset, 8 + header.size() + 4);
  CHECK_EQ(tensors[0].bytes, 12);
  CHECK_EQ(tensors[1].name, "a\n\xf0\x9f\x98\x80");
  CHECK_EQ(tensors[1].offset, 8 + header.size());
}

TEST(scalars_and_zero_sized_tensors_are_legal) {
  const std::vector<Tensor> tensors =
      parse("{\"z\":" + entry("F32", "[0,7]", "[4,4]") + ",\"y\":" + entry("F32", "[3,0]", "[0,0]") +
                ",\"s\":" + entry("F32", "[]", "[0,4]") + ",\"e\":" + entry("BOOL", "[0]", "[4,4]") + "}",
            "abcd");
  REQUIRE(tensors.size() == 4);
  CHECK_EQ(tensors[0].bytes, 0);
  CHECK_EQ(tensors[2].bytes, 4);
  CHECK_EQ(parse("{}").size(), 0);
}

TEST(every_dtype_has_its_size) {
  const std::pair<const char*, int> types[] = {{"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E4M3", 1}, {"F8_E5M2", 1},
                                               {"I16", 2},  {"U16", 2}, {"F16", 2}, {"BF16", 2},    {"I32", 4},
                                               {"U32", 4},  {"F32", 4}, {"F64", 8}, {"I64", 8},     {"U64", 8}};
  for (const auto& [name, bytes] : types) {
    const std::string end = std::to_string(3 * bytes);
    const std::vector<Tensor> tensors =
        parse("{\"t\":" + entry(name, "[3]", "[0," + end + "]") + "}", std::string(3 * bytes, 0));
    CHECK_EQ(traits_of(tensors[0].dtype).block_bytes, bytes);
    CHECK_EQ(std::string(name_of(tensors[0].dtype)), name);
  }
}

TEST(header_length_is_held_to_the_file_and_to_the_limit) {
  refuse_bytes("", code::kCheckpointInvalid, {"8 bytes"});
  refuse_bytes(std::string("\2\0\0\0\0\0\0", 7), code::kCheckpointInvalid, {"8 bytes"});
  refuse_bytes(std::string("\0\0\0\0\0\0\0\0", 8), code::kCheckpointInvalid, {"'{'"});
  refuse_bytes(std::string("\3\0\0\0\0\0\0\0{}", 10), code::kCheckpointInvalid, {"3 bytes", "10"});
  refuse_bytes(std::string("\xff\xff\xff\xff\xff\xff\xff\xff{}", 10), code::kCheckpointInvalid,
               {"18446744073709551615"});
  // The whole header must lie in what was read, and 100 MB is too long even for a file that has room.
  CHECK_THROWS_CODE(parse_safetensors(std::string("\3\0\0\0\0\0\0\0{}", 10), 11, "f"), code::kCheckpointInvalid);
  std::string vast = safetensors_bytes("{}", "");
  const uint64_t length = 100'000'001;
  std::memcpy(vast.data(), &length, 8);
  vast.resize(8 + length, ' ');
  refuse_bytes(vast, code::kCheckpointInvalid, {"100000001"});
}

TEST(offsets_must_cover_the_data_once) {
  const std::string four = "abcd", eight = "abcdefgh";
  refuse("{\"weird\":" + entry("F32", "[1]", "[0,8]") + "}", eight, {"weird", "expected 4", "found 8"});
  refuse("{\"weird\":" + entry("F32", "[1]", "[4,8]") + "}", eight, {"weird", "gap"});
  refuse("{\"one\":" + entry("F32", "[1]", "[0,4]") + ",\"two\":" + entry("F32", "[1]", "[0,4]") + "}", eight,
         {"two", "overlap"});
  refuse("{\"one\":" + entry("F32", "[1]", "[0,4]") + ",\"two\":" + entry("F32", "[1]", "[2,6]") + "}", eight,
         {"two", "overlap"});
  refuse("{\"one\":" + entry("F32", "[1]", "[0,4]") + "}", eight, {"expected 4", "found 8"});
  refuse("{\"one\":" + entry("F32", "[2]", "[0,8]") + "}", four, {"one", "4 bytes"});
  refuse("{\"one\":" + entry("F32", "[1]", "[4,0]") + "}", four, {"one", "ascending"});
  refuse("{\"one\":" + entry("F32", "[0]", "[9,9]") + "}", four, {"one"});
  refuse("{}", four, {"expected 0", "found 4"});
}

TEST(products_that_overflow_are_refused) {
  refuse("{\"big\":" + entry("F32", "[4611686018427387904]", "[0,0]") + "}", "", {"big", "overflows"});
  refuse("{\"big\":" + entry("U8", "[4294967296,4294967296]", "[0,0]") + "}", "", {"big", "overflows"});
  refuse("{\"big\":" + entry("U8", "[9223372036854775807]", "[0,0]") + "}", "", {"big", "9223372036854775807"});
  refuse("{\"big\":" + entry("U8", "[9223372036854775808]", "[0,0]") + "}", "", {"big", "2^63"});
  refuse("{\"big\":" + entry("U8", "[1]", "[0,18446744073709551617]") + "}", "", {"big", "2^63"});
  std::string many = "[1";
  for (int i = 0; i < 40; i++) many += ",1";
  refuse("{\"big\":" + entry("U8", many + "]", "[0,1]") + "}", "x", {"big", "dimensions"});
}

TEST(duplicates_are_refused) {
  refuse("{\"twin\":" + entry("U8", "[1]", "[0,1]") + ",\"twin\":" + entry("U8", "[1]", "[1,2]") + "}", "ab",
         {"twin", "twice"});
  refuse("{\"twin\":" + entry("U8", "[1]", "[0,1]") + ",\"tw\\u0069n\":" + entry("U8", "[1]", "[1,2]") + "}", "ab",
         {"twin", "twice"});
  refuse("{\"t\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", "a",
         {"tensor t", "dtype", "twice"});
  refuse("{\"t\":{\"shape\":[1],\"shape\":[1]}}", "a", {"tensor t", "shape", "twice"});
  refuse("{\"t\":{\"data_offsets\":[0,1],\"data_offsets\":[0,1]}}", "a", {"tensor t", "data_offsets", "twice"});
  refuse("{\"__metadata__\":{},\"__metadata__\":{}}", "", {"__metadata__", "twice"});
  refuse("{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}", "", {"__metadata__", "twice"});
}

TEST(entries_must_be_complete_and_known) {
  refuse("{\"part\":{\"shape\":[1],\"data_offsets\":[0,1]}}", "a", {"part", "dtype is missing"});
  refuse("{\"part\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", "a", {"part", "shape is missing"});
  refuse("{\"part\":{\"dtype\":\"U8\",\"shape\":[1]}}", "a", {"part", "data_offsets is missing"});
  refuse("{\"part\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"extra\":1}}", "a", {"part", "extra"});
  refuse("{\"part\":" + entry("U8", "[1]", "[0]") + "}", "a", {"part", "two data_offsets"});
  refuse("{\"part\":" + entry("U8", "[1]", "[0,1,1]") + "}", "a", {"part", "two data_offsets"});
}

// Whoever reads the tensor refuses its type; what nobody reads stops nobody. Its place is held to the file all the
// same.
TEST(types_that_are_not_known_are_kept_by_name) {
  for (const char* type : {"F8_E8M0", "F4", "F6_E2M3", "C64", "Q3", "f16", ""}) {
    const std::vector<Tensor> tensors =
        parse("{\"odd\":" + entry(type, "[2,3]", "[0,3]") + ",\"t\":" + entry("U8", "[1]", "[3,4]") + "}", "abcd");
    REQUIRE(tensors.size() == 2);
    CHECK(tensors[0].dtype == DType::other);
    CHECK_EQ(tensors[0].type_name(), type);
    CHECK_EQ(tensors[0].bytes, 3);
    CHECK_EQ(tensors[1].type_name(), "U8");
  }
  refuse("{\"odd\":" + entry("F4", "[2]", "[1,2]") + "}", "ab", {"odd", "gap"});
  refuse("{\"odd\":" + entry("F4", "[2]", "[0,3]") + "}", "ab", {"odd", "2 bytes"});
  refuse("{\"odd\":" + entry("F4", "[2]", "[0,1]") + "}", "ab", {"expected 1", "found 2"});
  refuse("{\"odd\":" + entry("F4", "[2]", "[0,2]") + ",\"odd\":" + entry("U8", "[0]", "[2,2]") + "}", "ab",
         {"odd", "twice"});
}

TEST(json_is_read_strictly) {
  for (const char* header : {
           "",
           " {}",
           "[]",
           "{",
           "}",
           "{}}",
           "{} x",
           "{,}",
           "{\"a\"}",
           "{\"a\":}",
           "{\"a\":1}",
           "{\"a\":{}},",
           "{'a':{}}",
           "{\"__metadata__\":{\"a\":1}}",
           "{\"__metadata__\":{\"a\":null}}",
           "{\"__metadata__\":[]}",
           "{\"__metadata__\":{\"a\":\"b\",}}",
           "{\"__metadata__\":{\"a\" \"b\"}}",
           "{\"__metadata__\":{\"a\":\"b\" \"c\":\"d\"}}",
           "{\"__metadata__\":{\"a\":\"\\x\"}}",
           "{\"__metadata__\":{\"a\":\"\\u12g4\"}}",
           "{\"__metadata__\":{\"a\":\"\\ud800\"}}",
           "{\"__metadata__\":{\"a\":\"\\udc00\"}}",
           "{\"__metadata__\":{\"a\":\"\\ud800\\u0041\"}}",
           "{\"__metadata__\":{\"a\":\"\n\"}}",
           "{\"__metadata__\":{\"a\":\"\xff\"}}",
           "{\"__metadata__\":{\"a\":\"\xc0\x80\"}}",
           "{\"__metadata__\":{\"a\":\"\xed\xa0\x80\"}}",
           "{\"__metadata__\":{\"a\":\"\xf4\x90\x80\x80\"}}",
           "{\"__metadata__\":{\"a\":\"\xe2\x82\"}}",
           "{\"__metadata__\":{\"a\":\"\xf8\x88\x80\x80\x80\"}}",
           "{\"__metadata__\":{\"a\":\"b",
           "{\"__metadata__\":{\"a\":\"\\",
           "{\"__metadata__\":{\"a\":\"\\u00",
           "\xef\xbb\xbf{}",
       }) {
    refuse(header, "", {});
  }
  for (const char* shape :
       {"[-1]", "[1.0]", "[1e0]", "[01]", "[+1]", "[\"1\"]", "[1,]", "[,1]", "[1 1]", "[null]", "1", "[[1]]", "{}"}) {
    refuse("{\"t\":" + entry("U8", shape, "[0,1]") + "}", "a", {"tensor t"});
  }
  // Nesting is never followed: a value of no use is refused where it begins.
  refuse("{\"t\":" + std::string(100000, '['), "", {"tensor t"});
  refuse("{\"t\":{\"shape\":" + std::string(100000, '[') + "}}", "", {"tensor t"});
}

TEST(names_in_messages_are_harmless) {
  try {
    parse("{\"evil\\u001b[31m\\n" + std::string(5000, 'x') + "end\":" + entry("U8", "[1]", "[0,2]") + "}", "ab");
    CHECK(false);
  } catch (const Error& error) {
    const std::string message = error.what();
    CHECK(message.find("evil\\x1b[31m\\x0a") != std::string::npos);
    CHECK(message.find("end") != std::string::npos);
    CHECK(message.size() < 600);
    for (const char c : message) CHECK(c >= 0x20 && c < 0x7f);
  }
}

// What a fuzzer would do, in short: every truncation of a sound file, and random damage to it, is refused or read, and
// whatever is accepted lies within the file.
TEST(damaged_headers_never_escape_the_file) {
  const std::string sound =
      safetensors_bytes("{\"__metadata__\":{\"format\":\"pt\"},\"a.b\":" + entry("F16", "[2,3]", "[0,12]") +
                            ",\"c\\u0041\":" + entry("I32", "[1,1]", "[12,16]") + "}",
                        std::string(16, 'd'));
  REQUIRE(parse_safetensors(sound, sound.size(), "f").size() == 2);
  for (size_t length = 0; length < sound.size(); length++) {
    CHECK_THROWS_CODE(parse_safetensors(std::string(sound, 0, length), length, "f"), code::kCheckpointInvalid);
  }
  std::mt19937_64 random = check::random();
  int refused = 0;
  for (int round = 0; round < 20000; round++) {
    std::string damaged = sound;
    for (int hit = 1 + static_cast<int>(random() % 3); hit > 0; hit--) {
      const size_t at = random() % damaged.size();
      static constexpr char kLikely[] = "{}[]\",:0123456789\\uEe.-+ \xff\x80";
      switch (random() % 4) {
        case 0:
          damaged[at] = static_cast<char>(random());
          break;
        case 1:
          damaged[at] = kLikely[random() % (sizeof(kLikely) - 1)];
          break;
        case 2:
          damaged.erase(at, 1 + random() % 4);
          if (damaged.empty()) damaged = "x";
          break;
        default:
          damaged.insert(at, 1, kLikely[random() % (sizeof(kLikely) - 1)]);
      }
    }
    try {
      for (const Tensor& tensor : parse_safetensors(damaged, damaged.size(), "f")) {
        CHECK(tensor.offset <= damaged.size() && tensor.bytes <= damaged.size() - tensor.offset);
      }
    } catch (const Error&) {
      refused++;
    }
  }
  CHECK(refused > 10000);
}

TEST(checkpoint_maps_shards_and_finds_tensors) {
  TempFolder folder;
  SafetensorsWriter one, two;
  one.add<float>("a", "F32", {2}, {1.0f, 2.0f});
  two.add<int32_t>("b", "I32", {2, 2}, {1, 2, 3, 4});
  one.write(folder / "one.safetensors");
  two.write(folder / "two.safetensors", false);
  const Checkpoint checkpoint({folder / "one.safetensors", folder / "two.safetensors"});
  CHECK_EQ(checkpoint.tensors().size(), 2);
  const Tensor& b = checkpoint.require("b");
  CHECK_EQ(b.file, 1);
  CHECK_EQ(checkpoint.path_of(b), folder / "two.safetensors");
  int32_t values[4];
  std::memcpy(values, checkpoint.data(b), sizeof(values));
  CHECK_EQ(values[3], 4);
  // Dropped pages come back with the same content.
  checkpoint.drop(b, 0, 2);
  checkpoint.drop(b, 1, 1);
  checkpoint.prefetch(b);
  std::memcpy(values, checkpoint.data(b), sizeof(values));
  CHECK_EQ(values[2], 3);
  CHECK(checkpoint.find("c") == nullptr);
  try {
    checkpoint.require("layer.7.missing");
    CHECK(false);
  } catch (const Error& error) {
    CHECK_EQ(std::string(error.code()), code::kCheckpointInvalid);
    CHECK(std::string(error.what()).find("layer.7.missing") != std::string::npos);
  }
}

TEST(a_tensor_in_two_shards_is_refused) {
  TempFolder folder;
  SafetensorsWriter writer;
  writer.add<float>("shared.weight", "F32", {1}, {1.0f});
  writer.write(folder / "one.safetensors");
  writer.write(folder / "two.safetensors");
  try {
    Checkpoint({folder / "one.safetensors", folder / "two.safetensors"});
    CHECK(false);
  } catch (const Error& error) {
    CHECK_EQ(std::string(error.code()), code::kCheckpointInvalid);
    for (const char* word : {"shared.weight", "one.safetensors", "two.safetensors"}) {
      CHECK(std::string(error.what()).find(word) != std::string::npos);
    }
  }
}

TEST(files_that_cannot_be_opened_are_not_found) {
  TempFolder folder;
  CHECK_THROWS_CODE(Checkpoint({folder / "absent.safetensors"}), code::kCheckpointNotFound);
  CHECK_THROWS_CODE(Checkpoint({folder / ""}), code::kCheckpointNotFound);
  CHECK_THROWS_CODE(Checkpoint({}), code::kCheckpointNotFound);
  write_file(folder / "empty.safetensors", "");
  CHECK_THROWS_CODE(Checkpoint({folder / "empty.safetensors"}), code::kCheckpointInvalid);
}

TEST(a_pointer_of_git_lfs_is_named) {
  const std::string pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n";
  try {
    parse_safetensors(pointer, pointer.size(), "model.safetensors");
    CHECK(false);
  } catch (const Error& error) {
    CHECK_EQ(std::string(error.code()), code::kCheckpointInvalid);
    CHECK(std::string(error.what()).find("Git LFS pointer") != std::string::npos);
  }
}
