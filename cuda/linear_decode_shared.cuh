#pragma once
// linear_decode for 9 to 32 rows on Hopper: linear_decode_shared_sm90.cu.
#include "cuda/linear_decode.cuh"

namespace millrace::cuda {

inline constexpr int kSharedFrom = 9, kSharedTo = 32;

// Whether this build, the current device and the kernel take the task: parts as for launch_decode_wide.
bool linear_decode_shared_takes(const DecodeTask& task, int parts);
cudaError_t launch_decode_shared(const DecodeTask& task, bool zeros, int parts, const DecodePlan& plan,
                                 cudaStream_t stream, bool programmatic);
cudaError_t prepare_decode_shared();

}  // namespace millrace::cuda
