// linear_decode with float16, bfloat16 and float32 weights.
#include "cuda/linear_decode.cuh"

namespace millrace::cuda {

cudaError_t launch_decode_float(const DecodeTask& task, WeightType type, const DecodePlan& plan, cudaStream_t stream,
                                bool programmatic) {
  switch (type) {
    case WeightType::f16:
      return launch_decode_code<FloatCode<WeightType::f16>>(task, plan, stream, programmatic);
    case WeightType::bf16:
      return launch_decode_code<FloatCode<WeightType::bf16>>(task, plan, stream, programmatic);
    case WeightType::f32:
      return launch_decode_code<FloatCode<WeightType::f32>>(task, plan, stream, programmatic);
    default:
      break;
  }
  return cudaErrorInvalidValue;
}

cudaError_t prepare_decode_float() {
  return prepare_decode_codes<FloatCode<WeightType::f16>, FloatCode<WeightType::bf16>, FloatCode<WeightType::f32>>();
}

}  // namespace millrace::cuda
