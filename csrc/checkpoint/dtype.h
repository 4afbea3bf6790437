#pragma once
// The element types of checkpoint files. A type of ggml packs a row's elements in blocks: one row of traits says how
// many elements a block has and how many bytes, and everything that measures a tensor looks it up.
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace millrace {

enum class DType : uint8_t {
  boolean,
  u8,
  i8,
  f8_e4m3,
  f8_e5m2,
  i16,
  u16,
  f16,
  bf16,
  i32,
  u32,
  f32,
  f64,
  i64,
  u64,
  // ggml's, in blocks of a row: layouts in gguf_blocks.h.
  q4_0,
  q4_1,
  q5_0,
  q5_1,
  q8_0,
  q2_k,
  q3_k,
  q4_k,
  q5_k,
  q6_k,
  iq4_nl,
  iq4_xs,
  mxfp4,
  tq1_0,
  tq2_0,
  other  // a type of a later version of the format, of none, or that is not read here
};

struct DTypeTraits {
  DType type;
  const char* name;  // as its format spells it: "F16", "I32", "Q4_K", ...
  int block;         // elements of a block: 1 but for ggml's packed types
  int block_bytes;
};

// There are none of DType::other.
const DTypeTraits& traits_of(DType type);
const char* name_of(DType type);
inline constexpr DType kFirstPacked = DType::q4_0;
inline bool is_packed(DType type) {
  return type >= kFirstPacked && type < DType::other;
}

// DType::other for a name that is not known.
DType dtype_named(std::string_view name);

}  // namespace millrace
