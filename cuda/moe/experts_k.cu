// experts_linear with the integers of GGUF's types.
#include "cuda/moe/experts.cuh"

namespace millrace::cuda {

cudaError_t launch_experts_k(const ExpertLaunch& l, const MatrixCode& code) {
  switch (code.type) {
    case WeightType::q4_1:
      return launch_experts_integers<GroupCode<WeightType::q4_1, 2>, WeightType::q4_1>(l);
    case WeightType::q5_0:
      return launch_experts_integers<GroupCode<WeightType::q5_0, 2>, WeightType::q5_0>(l);
    case WeightType::q5_1:
      return launch_experts_integers<GroupCode<WeightType::q5_1, 2>, WeightType::q5_1>(l);
    case WeightType::q2_k:
      return launch_experts_integers<GroupCode<WeightType::q2_k, 1>, WeightType::q2_k>(l);
    case WeightType::q3_k:
      return launch_experts_integers<GroupCode<WeightType::q3_k, 1>, WeightType::q3_k>(l);
    case WeightType::q4_k:
      return launch_experts_integers<GroupCode<WeightType::q4_k, 2>, WeightType::q4_k>(l);
    case WeightType::q5_k:
      return launch_experts_integers<GroupCode<WeightType::q5_k, 2>, WeightType::q5_k>(l);
    case WeightType::q6_k:
      return launch_experts_integers<GroupCode<WeightType::q6_k, 1>, WeightType::q6_k>(l);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace millrace::cuda
