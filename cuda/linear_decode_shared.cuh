#pragma once
// linear_decode for 9 to 32 rows on Hopper: linear_decode_shared_sm90.cu.
#include "cuda/linear_decode.cuh"

namespace millrace::cuda {

cudaError_t launch_decode_shared(const DecodeTask& task, bool zeros, const DecodePlan& plan, cudaStream_t stream,
                                 bool programmatic);
cudaError_t prepare_decode_shared();

}  // namespace millrace::cuda
