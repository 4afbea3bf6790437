#include "core/error.h"
#include "cuda/cuda_backend.h"

namespace millrace {

std::unique_ptr<Backend> create_cuda_backend(int) {
  throw Error(code::kDeviceUnavailable, "this build of millrace has no CUDA",
              "build it where a CUDA toolkit is installed (nvcc on PATH), or use device: 'cpu'");
}

}  // namespace millrace
