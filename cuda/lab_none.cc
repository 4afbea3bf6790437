#include "core/error.h"
#include "cuda/lab.h"
#include "cuda/probe.h"

namespace millrace {

std::unique_ptr<lab::Device> create_cuda_lab(int) {
  throw Error(code::kDeviceUnavailable, "no GPU can be used: " + probe_gpus().reason,
              "use device: 'cpu', or see probe()");
}

}  // namespace millrace
