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
    case WeightType::q4:
      break;
  }
  return cudaErrorInvalidValue;
}

cudaError_t prepare_decode_float() {
  for (cudaError_t (*prepare)() :
       {prepare_decode_code<FloatCode<WeightType::f16>>, prepare_decode_code<FloatCode<WeightType::bf16>>,
        prepare_decode_code<FloatCode<WeightType::f32>>}) {
    if (const cudaError_t status = prepare(); status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

}  // namespace millrace::cuda
