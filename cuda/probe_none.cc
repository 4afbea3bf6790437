// Stands in for probe.cu in builds without CUDA.
#include "cuda/probe.h"

namespace millrace {

GpuProbe probe_gpus() {
  return {{}, "this build has no CUDA backend: no CUDA compiler was found when it was built"};
}

}  // namespace millrace
