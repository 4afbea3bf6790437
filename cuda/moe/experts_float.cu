// experts_linear with float16, bfloat16 and float32 weights.
#include "cuda/moe/experts.cuh"

namespace millrace::cuda {

cudaError_t launch_experts_float(const ExpertLaunch& l, WeightType type) {
  switch (type) {
    case WeightType::f16:
      return launch_experts_code<FloatCode<WeightType::f16>>(l);
    case WeightType::bf16:
      return launch_experts_code<FloatCode<WeightType::bf16>>(l);
    case WeightType::f32:
      return launch_experts_code<FloatCode<WeightType::f32>>(l);
    default:
      break;
  }
  return cudaErrorInvalidValue;
}

}  // namespace millrace::cuda
