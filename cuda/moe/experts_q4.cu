// experts_linear with 4-bit weights: the kernels of the usual group sizes, and one for the others.
#include "cuda/moe/experts.cuh"

namespace millrace::cuda {
namespace {

template <bool ZEROS>
cudaError_t launch_group(const ExpertLaunch& l) {
  switch (l.task.linear.group_slices) {
    case 2:
      return launch_experts_integers<Q4Code<2, ZEROS>, WeightType::q4, ZEROS>(l);
    case 4:
      return launch_experts_integers<Q4Code<4, ZEROS>, WeightType::q4, ZEROS>(l);
    case 8:
      return launch_experts_integers<Q4Code<8, ZEROS>, WeightType::q4, ZEROS>(l);
    default:
      return launch_experts_integers<Q4Code<0, ZEROS>, WeightType::q4, ZEROS>(l);
  }
}

}  // namespace

cudaError_t launch_experts_q4(const ExpertLaunch& l, bool zeros) {
  return zeros ? launch_group<true>(l) : launch_group<false>(l);
}

}  // namespace millrace::cuda
