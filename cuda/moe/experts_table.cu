// experts_linear with tables of 16.
#include "cuda/moe/experts.cuh"

namespace millrace::cuda {

cudaError_t launch_experts_table(const ExpertLaunch& l, const MatrixCode& code) {
  switch (code.type) {
    case WeightType::iq4_nl:
      return launch_experts_integers<GroupCode<WeightType::iq4_nl, 2>, WeightType::iq4_nl>(l);
    case WeightType::iq4_xs:
      return launch_experts_integers<GroupCode<WeightType::iq4_xs, 2>, WeightType::iq4_xs>(l);
    case WeightType::mxfp4:
      return launch_experts_integers<GroupCode<WeightType::mxfp4, 2>, WeightType::mxfp4>(l);
    case WeightType::nvfp4:
      return launch_experts_integers<GroupCode<WeightType::nvfp4, 1>, WeightType::nvfp4>(l);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace millrace::cuda
