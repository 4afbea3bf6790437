// linear_decode with tables of 16.
#include "cuda/linear_decode.cuh"

namespace millrace::cuda {

cudaError_t launch_decode_table(const DecodeTask& task, const MatrixCode& code, const DecodePlan& plan,
                                cudaStream_t stream, bool programmatic) {
  switch (code.type) {
    case WeightType::iq4_nl:
      return launch_decode_code<GroupCode<WeightType::iq4_nl, 2>>(task, plan, stream, programmatic);
    case WeightType::iq4_xs:
      return launch_decode_code<GroupCode<WeightType::iq4_xs, 2>>(task, plan, stream, programmatic);
    case WeightType::mxfp4:
      return launch_decode_code<GroupCode<WeightType::mxfp4, 2>>(task, plan, stream, programmatic);
    case WeightType::nvfp4:
      return launch_decode_code<GroupCode<WeightType::nvfp4, 1>>(task, plan, stream, programmatic);
    default:
      return cudaErrorInvalidValue;
  }
}

cudaError_t prepare_decode_table() {
  return prepare_decode_codes<GroupCode<WeightType::iq4_nl, 2>, GroupCode<WeightType::iq4_xs, 2>,
                              GroupCode<WeightType::mxfp4, 2>, GroupCode<WeightType::nvfp4, 1>>();
}

}  // namespace millrace::cuda
