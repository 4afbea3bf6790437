// linear_prefill on wgmma with the integers of GGUF's types.
#include "cuda/linear_prefill_codes_sm90.cuh"

namespace millrace::cuda {

cudaError_t prefill_k_sm90(const PrefillTask& task, const MatrixCode& code, const PrefillPlan& plan,
                           cudaStream_t stream, bool programmatic) {
  switch (code.type) {
    case WeightType::q5_0:
      return start_prefill_rows<CodeSource<WeightType::q5_0, 2>>(task, plan, stream, programmatic);
    case WeightType::q3_k:
      return start_prefill_rows<CodeSource<WeightType::q3_k, 1>>(task, plan, stream, programmatic);
    case WeightType::q4_k:
      return start_prefill_rows<CodeSource<WeightType::q4_k, 2>>(task, plan, stream, programmatic);
    case WeightType::q5_k:
      return start_prefill_rows<CodeSource<WeightType::q5_k, 2>>(task, plan, stream, programmatic);
    case WeightType::q6_k:
      return start_prefill_rows<CodeSource<WeightType::q6_k, 1>>(task, plan, stream, programmatic);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace millrace::cuda
