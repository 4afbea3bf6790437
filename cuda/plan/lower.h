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
  // NormOp of query heads: the norm of the key heads beside them.
  std::optional<NormOp> keys;
  // ExpertsOp: what adds their sum, which nobody else reads.
  std::optional<AddOp> sum = {};
};

std::vector<Lowered> lower(const std::vector<Op>& ops);

// [values]: what only linears and gates read is float16, in rows padded to whole vectors; the others are float32.
std::vector<bool> half_values(const Program& program);

// Gate and up leave their linear as one activation.
bool fused_glu(const GluOp& op, const LinearLayout& linear);

}  // namespace millrace::cuda
