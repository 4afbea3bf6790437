#include "checkpoint/dtype.h"

#include <iterator>

#include "core/error.h"

namespace millrace {

namespace {

constexpr DTypeTraits kTraits[] = {
    {DType::boolean, "BOOL", 1, 1},    {DType::u8, "U8", 1, 1},           {DType::i8, "I8", 1, 1},
    {DType::f8_e4m3, "F8_E4M3", 1, 1}, {DType::f8_e5m2, "F8_E5M2", 1, 1}, {DType::i16, "I16", 1, 2},
    {DType::u16, "U16", 1, 2},         {DType::f16, "F16", 1, 2},         {DType::bf16, "BF16", 1, 2},
    {DType::i32, "I32", 1, 4},         {DType::u32, "U32", 1, 4},         {DType::f32, "F32", 1, 4},
    {DType::f64, "F64", 1, 8},         {DType::i64, "I64", 1, 8},         {DType::u64, "U64", 1, 8},
    {DType::q4_0, "Q4_0", 32, 18},     {DType::q4_1, "Q4_1", 32, 20},     {DType::q5_0, "Q5_0", 32, 22},
    {DType::q5_1, "Q5_1", 32, 24},     {DType::q8_0, "Q8_0", 32, 34},     {DType::q2_k, "Q2_K", 256, 84},
    {DType::q3_k, "Q3_K", 256, 110},   {DType::q4_k, "Q4_K", 256, 144},   {DType::q5_k, "Q5_K", 256, 176},
    {DType::q6_k, "Q6_K", 256, 210},   {DType::iq4_nl, "IQ4_NL", 32, 18}, {DType::iq4_xs, "IQ4_XS", 256, 136},
    {DType::mxfp4, "MXFP4", 32, 17},   {DType::tq1_0, "TQ1_0", 256, 54},  {DType::tq2_0, "TQ2_0", 256, 66},
};

// traits_of() looks up by value.
static_assert([] {
  for (size_t i = 0; i < std::size(kTraits); i++) {
    if (static_cast<size_t>(kTraits[i].type) != i) return false;
  }
  return std::size(kTraits) == static_cast<size_t>(DType::other);
}());

}  // namespace

const DTypeTraits& traits_of(DType type) {
  if (type >= DType::other) throw Error(code::kInternal, "unknown dtype", "report this as a bug");
  return kTraits[static_cast<size_t>(type)];
}

const char* name_of(DType type) {
  return traits_of(type).name;
}

DType dtype_named(std::string_view name) {
  for (const DTypeTraits& traits : kTraits) {
    if (name == traits.name) return traits.type;
  }
  return DType::other;
}

}  // namespace millrace
