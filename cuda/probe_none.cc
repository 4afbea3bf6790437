// Stands in for probe.cu in builds without CUDA.
#include "cuda/probe.h"

namespace millrace {

GpuProbe probe_gpus() {
  return {
      {},
      false,
      "this build has no CUDA backend (it was built without a CUDA compiler or without a GPU; set MILLRACE_CUDA=ON to "
      "build it anyway)"};
}

}  // namespace millrace
