#pragma once
// Where the experts of a unit lie in its slab, as addresses of their own.
#include <cstddef>
#include <optional>

#include "model/program.h"
#include "model/slab_layout.h"

namespace millrace {

// The experts of a unit, all alike: expert e begins first + e * stride bytes into the slab, and the offsets of its
// linears count from there.
struct ExpertsLayout {
  size_t first = 0, stride = 0;
  LinearLayout gate_up, down;
};
// None where two experts lie otherwise: in another code, or by a permutation that others do not have.
std::optional<ExpertsLayout> experts_layout(const ExpertsOp& op, const UnitLayout& unit);

// Of the unit, if it has experts: the operation.
const ExpertsOp* experts_of(const ProgramUnit& unit);

}  // namespace millrace
