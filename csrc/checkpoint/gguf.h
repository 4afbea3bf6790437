#pragma once
// Reader of GGUF files (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), versions 2 and 3, little-endian:
// "GGUF", version, numbers of tensors and of metadata pairs, the pairs, descriptions of tensors, padding to the
// alignment, data. Strict: counts, lengths, types, dimensions and offsets are held against the file before anything is
// taken for them; pairs and tensors of one name, nested arrays, offsets that are not aligned and data that overlap or
// leave the file are refused, naming file, key or tensor, expected and found. A tensor of a type that is not known here
// is no fault: who reads it refuses it.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/checkpoint.h"

namespace millrace {

inline constexpr std::string_view kGgufMagic = "GGUF";

enum class GgufType : uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };
const char* name_of(GgufType type);
size_t bytes_of(GgufType type);  // of numbers and booleans

// A metadata pair, where it lies in the header.
struct GgufPair {
  std::string_view key;
  GgufType type = GgufType::u8;
  GgufType element = GgufType::u8;  // of an array
  uint64_t count = 1;               // elements of an array
  // A number's bytes, not necessarily aligned; a string's text; an array's elements, of strings each with its length as
  // u64 before it.
  std::string_view bytes;
};

struct Gguf {
  uint32_t version = 0;
  std::vector<GgufPair> pairs;
  std::vector<Tensor> tensors;  // shapes as everywhere, the contiguous dimension last: ggml's reversed
};

// Parses the header in `head`, the first bytes of a file of `file_bytes` bytes (all of the header must be in `head`,
// which the pairs point into). `file_name` is for messages. Needs no file: this is what is fuzzed.
Gguf parse_gguf(std::string_view head, uint64_t file_bytes, const std::string& file_name);

}  // namespace millrace
