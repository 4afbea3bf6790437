// Every field of a layout takes part in its hash and in its equality.
#include "model/layout_fields.h"

#include <set>

#include "check.h"
#include "stream/packed_file.h"

using namespace millrace;

namespace {

UnitLayout layout() {
  UnitLayout unit;
  unit.vectors = {0, 64};
  unit.linears.resize(2);
  unit.linears[0].segments.resize(2);
  unit.linears[1].segments.resize(1);
  return unit;
}

constexpr TableLayout kTable{WeightType::f16, 64, 0, 4096};

uint64_t hash(const UnitLayout& unit) {
  const std::vector<uint64_t> fields = flatten(std::span(&unit, 1), std::span(&kTable, 1));
  return hash_bytes(fields.data(), fields.size() * sizeof(uint64_t));
}

// Changes the nth number of the unit; false if there are fewer. `constant`: it is a length.
bool change(UnitLayout& unit, int nth, bool& constant) {
  int at = 0;
  for_each_field(unit, [&](auto& field) {
    using Field = std::remove_reference_t<decltype(field)>;
    if (at++ != nth) return;
    constant = std::is_const_v<Field>;
    if constexpr (!std::is_const_v<Field>) field = static_cast<Field>(static_cast<uint64_t>(field) ^ 1);
  });
  return at > nth;
}

}  // namespace

TEST(every_field_changes_the_hash_and_the_equality) {
  const UnitLayout original = layout();
  CHECK(layout() == original);
  CHECK_EQ(hash(layout()), hash(original));
  std::set<uint64_t> seen = {hash(original)};
  int fields = 0;
  for (int nth = 0;; nth++) {
    UnitLayout changed = layout();
    bool constant = false;
    if (!change(changed, nth, constant)) break;
    if (constant) continue;
    fields++;
    CHECK(!(changed == original));
    CHECK(seen.insert(hash(changed)).second);  // unlike any other
  }
  // 1 of the unit itself, 2 vectors, 5 of each linear, 12 of each of three segments.
  CHECK_EQ(fields, 1 + 2 + 2 * 5 + 3 * 12);
  for (const bool first : {false, true}) {
    UnitLayout longer = layout();
    longer.linears[first ? 0 : 1].segments.emplace_back();
    CHECK(!(longer == original));
    CHECK(seen.insert(hash(longer)).second);
  }
}

TEST(a_segment_moved_between_linears_is_another_layout) {
  UnitLayout a = layout(), b = layout();
  a.linears[0].segments.pop_back();
  b.linears[1].segments.pop_back();
  CHECK(hash(a) != hash(b));
  CHECK(!(a == b));
}

TEST(matrices_of_four_and_eight_bits_hash_apart) {
  UnitLayout four = layout(), eight = layout();
  four.linears[0].segments[0].matrix.code.type = WeightType::q4;
  eight.linears[0].segments[0].matrix.code.type = WeightType::q8;
  CHECK(hash(four) != hash(eight));
}

TEST(the_tables_take_part) {
  const UnitLayout unit = layout();
  const auto flat = [&](const std::vector<TableLayout>& tables) { return flatten(std::span(&unit, 1), tables); };
  TableLayout typed = kTable, wider = kTable, larger = kTable, further = kTable;
  typed.type = WeightType::bf16;
  wider.width++;
  larger.bytes++;
  further.offset++;
  for (const TableLayout& other : {typed, wider, larger, further}) CHECK(flat({kTable}) != flat({other}));
  CHECK(flat({kTable}) != flat({kTable, kTable}));
  CHECK(flat({kTable}) != flatten({}, std::span(&kTable, 1)));
}
