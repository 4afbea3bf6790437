#pragma once
// What the steps of latent attention share.
#include <cmath>

#include "cuda/attention_common.cuh"
#include "cuda/latent.h"
#include "cuda/widen.cuh"

namespace millrace::cuda {

// Softmax is taken in powers of two: queries are scaled by log2(e) too.
inline float latent_scale_of(const LatentArguments& a) {
  const double root = std::sqrt(static_cast<double>(a.shape.nope + a.shape.rotary));
  return static_cast<float>(a.scale > 0 ? kLog2e * a.scale : kLog2e / root);
}

// Calls start.operator()<bits, levels>() of the matrix's code.
template <class Start>
cudaError_t by_tile(const MatrixLayout& matrix, const Start& start) {
  const Code& code = matrix.code.traits();
  if (code.levels == Levels::e4m3) return start.template operator()<8, Levels::e4m3>();
  if (code.levels == Levels::table) return start.template operator()<4, Levels::table>();
  if (code.levels == Levels::integer) {
    if (code.bits == 4) return start.template operator()<4, Levels::integer>();
    if (code.bits == 6) return start.template operator()<6, Levels::integer>();
    return start.template operator()<8, Levels::integer>();
  }
  if (code.bits == 32) return start.template operator()<32, Levels::floats>();
  return start.template operator()<16, Levels::floats>();
}

// Launches `kernel` by a plan; its shared memory is allowed once a device.
template <class Once, class... Parameters, class... Arguments>
cudaError_t start_latent(Once& prepared, void (*kernel)(Parameters...), const LaunchShape& launch, cudaStream_t stream,
                         bool programmatic, const Arguments&... arguments) {
  const cudaError_t status = prepared.run(
      [&] { return allow_shared_memory(reinterpret_cast<const void*>(kernel), launch.static_bytes, false); });
  if (status != cudaSuccess) return status;
  return launch_planned(launch, kernel, stream, programmatic, arguments...);
}

}  // namespace millrace::cuda
