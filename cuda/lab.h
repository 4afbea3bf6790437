#pragma once
// The lab on a GPU. Includes no CUDA header.
#include <memory>

#include "lab/lab.h"

namespace millrace {

// Throws DEVICE_UNAVAILABLE, as create_cuda_backend does.
std::unique_ptr<lab::Device> create_cuda_lab(int device);

}  // namespace millrace
