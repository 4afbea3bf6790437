#include "model/experts_layout.h"

#include <algorithm>

namespace millrace {
namespace {

size_t begin_of(const LinearLayout& linear) {
  const MatrixLayout& m = linear.segments.front().matrix;
  return m.code.permuted ? std::min(m.offset, m.permutation_offset) : m.offset;
}

LinearLayout moved(LinearLayout linear, size_t base) {
  for (LinearLayout::Segment& segment : linear.segments) {
    segment.matrix.offset -= base;
    if (segment.matrix.code.permuted) segment.matrix.permutation_offset -= base;
  }
  if (linear.has_bias) linear.bias_offset -= base;
  return linear;
}

}  // namespace

std::optional<ExpertsLayout> experts_layout(const ExpertsOp& op, const UnitLayout& unit) {
  ExpertsLayout out;
  out.first = begin_of(unit.linears[op.gate_up(0)]);
  out.gate_up = moved(unit.linears[op.gate_up(0)], out.first);
  out.down = moved(unit.linears[op.down(0)], out.first);
  out.stride = unit.bytes - out.first;
  if (op.experts > 1) out.stride = begin_of(unit.linears[op.gate_up(1)]) - out.first;
  for (int e = 1; e < op.experts; e++) {
    const size_t base = out.first + static_cast<size_t>(e) * out.stride;
    if (begin_of(unit.linears[op.gate_up(e)]) != base) return std::nullopt;
    if (!(moved(unit.linears[op.gate_up(e)], base) == out.gate_up)) return std::nullopt;
    if (!(moved(unit.linears[op.down(e)], base) == out.down)) return std::nullopt;
  }
  return out;
}

const ExpertsOp* experts_of(const ProgramUnit& unit) {
  for (const Op& op : unit.ops) {
    if (const auto* experts = std::get_if<ExpertsOp>(&op)) return experts;
  }
  return nullptr;
}

}  // namespace millrace
