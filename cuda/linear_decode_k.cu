// linear_decode with the integers of GGUF's types.
#include "cuda/linear_decode.cuh"

namespace millrace::cuda {

cudaError_t launch_decode_k(const DecodeTask& task, const MatrixCode& code, const DecodePlan& plan, cudaStream_t stream,
                            bool programmatic) {
  switch (code.type) {
    case WeightType::q4_1:
      return launch_decode_code<GroupCode<WeightType::q4_1, 2>>(task, plan, stream, programmatic);
    case WeightType::q5_0:
      return launch_decode_code<GroupCode<WeightType::q5_0, 2>>(task, plan, stream, programmatic);
    case WeightType::q5_1:
      return launch_decode_code<GroupCode<WeightType::q5_1, 2>>(task, plan, stream, programmatic);
    case WeightType::q2_k:
      return launch_decode_code<GroupCode<WeightType::q2_k, 1>>(task, plan, stream, programmatic);
    case WeightType::q3_k:
      return launch_decode_code<GroupCode<WeightType::q3_k, 1>>(task, plan, stream, programmatic);
    case WeightType::q4_k:
      return launch_decode_code<GroupCode<WeightType::q4_k, 2>>(task, plan, stream, programmatic);
    case WeightType::q5_k:
      return launch_decode_code<GroupCode<WeightType::q5_k, 2>>(task, plan, stream, programmatic);
    case WeightType::q6_k:
      return launch_decode_code<GroupCode<WeightType::q6_k, 1>>(task, plan, stream, programmatic);
    default:
      return cudaErrorInvalidValue;
  }
}

cudaError_t prepare_decode_k() {
  return prepare_decode_codes<GroupCode<WeightType::q4_1, 2>, GroupCode<WeightType::q5_0, 2>,
                              GroupCode<WeightType::q5_1, 2>, GroupCode<WeightType::q2_k, 1>,
                              GroupCode<WeightType::q3_k, 1>, GroupCode<WeightType::q4_k, 2>,
                              GroupCode<WeightType::q5_k, 2>, GroupCode<WeightType::q6_k, 1>>();
}

}  // namespace millrace::cuda
