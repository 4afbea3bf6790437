#pragma once
// linear_decode for many rows on Hopper: linear_decode_wide_sm90.cu.
#include "cuda/linear_decode.cuh"

namespace millrace::cuda {

cudaError_t launch_decode_wide(const DecodeTask& task, bool zeros, const DecodePlan& plan, cudaStream_t stream,
                               bool programmatic);
cudaError_t prepare_decode_wide();

}  // namespace millrace::cuda
