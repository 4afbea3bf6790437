// linear_prefill on wgmma with weights of 8 bits.
#include "cuda/linear_prefill_codes_sm90.cuh"

namespace millrace::cuda {

cudaError_t prefill_q8_sm90(const PrefillTask& task, const MatrixCode& code, const PrefillPlan& plan,
                            cudaStream_t stream, bool programmatic) {
  switch (code.type) {
    case WeightType::q8:
      if (code.group == 2 * kTileK) {
        return code.zeros ? start_prefill_rows<CodeSource<WeightType::q8, 2, true>>(task, plan, stream, programmatic)
                          : start_prefill_rows<CodeSource<WeightType::q8, 2>>(task, plan, stream, programmatic);
      }
      return code.zeros ? start_prefill_rows<CodeSource<WeightType::q8, 4, true>>(task, plan, stream, programmatic)
                        : start_prefill_rows<CodeSource<WeightType::q8, 4>>(task, plan, stream, programmatic);
    case WeightType::fp8:
      return start_prefill_rows<CodeSource<WeightType::fp8, 4>>(task, plan, stream, programmatic);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace millrace::cuda
