#pragma once
// Every field of what says how a model's bytes lie. Equality and the hash that packed files carry come from these lists
// alone. A structured binding names all fields of its struct or does not compile, so one that is added cannot be left
// out.
#include <span>
#include <tuple>
#include <type_traits>
#include <vector>

#include "model/slab_layout.h"

namespace millrace {

// `layout` may be const; the tuple refers to its fields.
template <typename Layout>
auto layout_fields(Layout& layout) {
  using Plain = std::remove_const_t<Layout>;
  if constexpr (std::is_same_v<Plain, MatrixCode>) {
    auto& [type, scale, zeros, permuted, group] = layout;
    return std::tie(type, scale, zeros, permuted, group);
  } else if constexpr (std::is_same_v<Plain, MatrixLayout>) {
    auto& [code, n, k, k_stored, offset, bytes, permutation_offset] = layout;
    return std::tie(code, n, k, k_stored, offset, bytes, permutation_offset);
  } else if constexpr (std::is_same_v<Plain, LinearLayout::Segment>) {
    auto& [matrix, out_begin] = layout;
    return std::tie(matrix, out_begin);
  } else if constexpr (std::is_same_v<Plain, LinearLayout>) {
    auto& [n, k, segments, has_bias, bias_offset, interleaved] = layout;
    return std::tie(n, k, segments, has_bias, bias_offset, interleaved);
  } else if constexpr (std::is_same_v<Plain, TableLayout>) {
    auto& [type, width, offset, bytes] = layout;
    return std::tie(type, width, offset, bytes);
  } else {
    static_assert(std::is_same_v<Plain, UnitLayout>);
    auto& [vectors, linears, bytes] = layout;
    return std::tie(vectors, linears, bytes);
  }
}

// Calls visit() with every number within, those of structs and lists inside too. Of a list first its length, which is
// const.
template <typename Value, typename Visit>
void for_each_field(Value& value, Visit&& visit) {
  using Plain = std::remove_const_t<Value>;
  if constexpr (std::is_arithmetic_v<Plain> || std::is_enum_v<Plain>) {
    visit(value);
  } else if constexpr (std::is_same_v<Plain, std::vector<LinearLayout::Segment>> ||
                       std::is_same_v<Plain, std::vector<LinearLayout>> || std::is_same_v<Plain, std::vector<size_t>>) {
    const size_t length = value.size();
    visit(length);
    for (auto& item : value) for_each_field(item, visit);
  } else {
    std::apply([&](auto&... fields) { (for_each_field(fields, visit), ...); }, layout_fields(value));
  }
}

// All of them as numbers, in a fixed order: two models lie alike where these are equal.
std::vector<uint64_t> flatten(std::span<const UnitLayout> units, std::span<const TableLayout> tables);

}  // namespace millrace
