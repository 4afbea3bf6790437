#pragma once
// The choice of tokens on the device: the same arithmetic as csrc/backend/sample.h, so the same choice.
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "backend/backend.h"

namespace millrace::cuda {

struct SampleArguments {
  const float* logits = nullptr;  // [rows, vocab]
  int vocab = 0;
  const LogitRequest* requests =
      nullptr;  // device [count]; row: index into `logits`; row < 0: padding, nothing written
  int count = 0;
  int32_t* tokens = nullptr;     // [count]: chosen token, the request's target, or -1 (see StepOutput)
  float* logprobs = nullptr;     // [count]: NaN where not asked for
  std::byte* scratch = nullptr;  // sample_scratch_bytes
};

size_t sample_scratch_bytes(int count, int vocab);

cudaError_t sample(const SampleArguments& arguments, cudaStream_t stream, bool programmatic);

}  // namespace millrace::cuda
