#pragma once
// The CUDA backend: csrc/backend/backend.h on one GPU. Includes no CUDA header, so that the engine's callers need none.
#include <memory>

#include "backend/backend.h"

namespace millrace {

// Throws DEVICE_UNAVAILABLE, saying why: no driver, too old a driver, no such device, no code for this device, or a
// build without CUDA.
std::unique_ptr<Backend> create_cuda_backend(int device);

}  // namespace millrace
