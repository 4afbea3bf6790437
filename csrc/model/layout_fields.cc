#include "model/layout_fields.h"

namespace millrace {

bool operator==(const MatrixCode& a, const MatrixCode& b) {
  return layout_fields(a) == layout_fields(b);
}
bool operator==(const MatrixLayout& a, const MatrixLayout& b) {
  return layout_fields(a) == layout_fields(b);
}
bool operator==(const LinearLayout::Segment& a, const LinearLayout::Segment& b) {
  return layout_fields(a) == layout_fields(b);
}
bool operator==(const LinearLayout& a, const LinearLayout& b) {
  return layout_fields(a) == layout_fields(b);
}
bool operator==(const UnitLayout& a, const UnitLayout& b) {
  return layout_fields(a) == layout_fields(b);
}

std::vector<uint64_t> flatten(std::span<const UnitLayout> units, std::span<const TableLayout> tables) {
  std::vector<uint64_t> out;
  const auto add = [&](const auto& field) { out.push_back(static_cast<uint64_t>(field)); };
  add(tables.size());
  for (const TableLayout& table : tables) for_each_field(table, add);
  add(units.size());
  for (const UnitLayout& unit : units) for_each_field(unit, add);
  return out;
}

}  // namespace millrace
