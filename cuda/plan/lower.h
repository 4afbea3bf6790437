#pragma once
// From a unit's operations to launches: neighbours that one launch computes are found here, everything else is launched
// operation by operation. And where values lie: activations that only linears read are float16. No CUDA in it.
#include <optional>
#include <vector>

#include "model/program.h"
#include "model/slab_layout.h"

namespace millrace::cuda {

struct Lowered {
  Op op;
  // LinearOp, GluOp: the RMSNorm of a float32 value, read by nobody else, that the linear does itself where it can.
  std::optional<NormOp> before;
  // NormOp of query heads: the norm of the key heads beside them. AttendOp, with `before` that of its query heads: the
  // norm of its key heads, which it does itself where it can.
  std::optional<NormOp> keys;
  // RouteOp, with `before` the norm of the router's input, which experts read too: the router.
  std::optional<LinearOp> router = {};
  // ExpertsOp: what adds their sum, which nobody else reads.
  std::optional<AddOp> sum = {};
};

std::vector<Lowered> lower(const std::vector<Op>& ops);

// [values]: what only linears and gates read is float16, in rows padded to whole vectors; the others are float32.
std::vector<bool> half_values(const Program& program);

// Gate and up leave their linear as one activation.
bool fused_glu(const GluOp& op, const LinearLayout& linear);

}  // namespace millrace::cuda
