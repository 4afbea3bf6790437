// linear_decode with weights of 8 bits: integers, and e4m3 numbers.
#include "cuda/linear_decode.cuh"

namespace millrace::cuda {

cudaError_t launch_decode_q8(const DecodeTask& task, const MatrixCode& code, const DecodePlan& plan,
                             cudaStream_t stream, bool programmatic) {
  switch (code.type) {
    case WeightType::q8:
      if (code.group == 2 * kTileK) {
        return code.zeros ? launch_decode_code<GroupCode<WeightType::q8, 2, true>>(task, plan, stream, programmatic)
                          : launch_decode_code<GroupCode<WeightType::q8, 2>>(task, plan, stream, programmatic);
      }
      return code.zeros ? launch_decode_code<GroupCode<WeightType::q8, 4, true>>(task, plan, stream, programmatic)
                        : launch_decode_code<GroupCode<WeightType::q8, 4>>(task, plan, stream, programmatic);
    case WeightType::fp8:
      return launch_decode_code<GroupCode<WeightType::fp8, 4>>(task, plan, stream, programmatic);
    default:
      return cudaErrorInvalidValue;
  }
}

cudaError_t prepare_decode_q8() {
  return prepare_decode_codes<GroupCode<WeightType::q8, 2>, GroupCode<WeightType::q8, 4>,
                              GroupCode<WeightType::q8, 2, true>, GroupCode<WeightType::q8, 4, true>,
                              GroupCode<WeightType::fp8, 4>>();
}

}  // namespace millrace::cuda
