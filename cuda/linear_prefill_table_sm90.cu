// linear_prefill on wgmma with tables of 16.
#include "cuda/linear_prefill_codes_sm90.cuh"

namespace millrace::cuda {

cudaError_t prefill_table_sm90(const PrefillTask& task, const MatrixCode& code, const PrefillPlan& plan,
                               cudaStream_t stream, bool programmatic) {
  switch (code.type) {
    case WeightType::iq4_xs:
      return start_prefill_rows<CodeSource<WeightType::iq4_xs, 2>>(task, plan, stream, programmatic);
    case WeightType::mxfp4:
      return start_prefill_rows<CodeSource<WeightType::mxfp4, 2>>(task, plan, stream, programmatic);
    case WeightType::nvfp4:
      return start_prefill_rows<CodeSource<WeightType::nvfp4, 1>>(task, plan, stream, programmatic);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace millrace::cuda
