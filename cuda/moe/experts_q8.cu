// experts_linear with weights of 8 bits: integers, and e4m3 numbers.
#include "cuda/moe/experts.cuh"

namespace millrace::cuda {

cudaError_t launch_experts_q8(const ExpertLaunch& l, const MatrixCode& code) {
  switch (code.type) {
    case WeightType::q8:
      if (code.group == 2 * kTileK) {
        return code.zeros ? launch_experts_integers<GroupCode<WeightType::q8, 2, true>, WeightType::q8, true>(l)
                          : launch_experts_integers<GroupCode<WeightType::q8, 2>, WeightType::q8>(l);
      }
      return code.zeros ? launch_experts_integers<GroupCode<WeightType::q8, 4, true>, WeightType::q8, true>(l)
                        : launch_experts_integers<GroupCode<WeightType::q8, 4>, WeightType::q8>(l);
    case WeightType::fp8:
      return launch_experts_code<GroupCode<WeightType::fp8, 4>>(l);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace millrace::cuda
