// linear_decode with 4-bit weights: the kernels of the usual group sizes, and one for the others.
#include "cuda/linear_decode.cuh"

namespace millrace::cuda {
namespace {

template <bool ZEROS>
cudaError_t launch_group(const DecodeTask& task, const DecodePlan& plan, cudaStream_t stream, bool programmatic) {
  switch (task.group_slices) {
    case 2:
      return launch_decode_code<Q4Code<2, ZEROS>>(task, plan, stream, programmatic);
    case 4:
      return launch_decode_code<Q4Code<4, ZEROS>>(task, plan, stream, programmatic);
    case 8:
      return launch_decode_code<Q4Code<8, ZEROS>>(task, plan, stream, programmatic);
    default:
      return launch_decode_code<Q4Code<0, ZEROS>>(task, plan, stream, programmatic);
  }
}

}  // namespace

cudaError_t launch_decode_q4(const DecodeTask& task, bool zeros, const DecodePlan& plan, cudaStream_t stream,
                             bool programmatic) {
  return zeros ? launch_group<true>(task, plan, stream, programmatic)
               : launch_group<false>(task, plan, stream, programmatic);
}

cudaError_t prepare_decode_q4() {
  return prepare_decode_codes<Q4Code<2, false>, Q4Code<4, false>, Q4Code<8, false>, Q4Code<0, false>, Q4Code<2, true>,
                              Q4Code<4, true>, Q4Code<8, true>, Q4Code<0, true>>();
}

}  // namespace millrace::cuda
