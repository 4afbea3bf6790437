#pragma once
// The limit that streaming is measured against.
#include <cstddef>

#include "backend/backend.h"

namespace millrace {

// Bytes a second of copies of `bytes` from pinned host memory to the device, the best of five. Throws OUT_OF_MEMORY.
double measure_copy_bandwidth(Backend& backend, size_t bytes);

}  // namespace millrace
