#pragma once
// Memory of a device that an engine's worker gives up is freed by the reclaiming thread; where the device then has too
// little for what comes next, that is waited for.
#include <memory>
#include <string_view>
#include <utility>

#include "backend/backend.h"
#include "core/error.h"
#include "core/reclaimer.h"

namespace millrace {

inline void reclaim(std::unique_ptr<Memory> memory) {
  if (memory) Reclaimer::process().destroy(std::move(memory));
}

// As Backend::allocate().
inline std::unique_ptr<Memory> allocate_after_reclaim(Backend& backend, size_t bytes, const char* what) {
  try {
    return backend.allocate(bytes, what);
  } catch (const Error& error) {
    if (std::string_view(error.code()) != code::kOutOfMemory || Reclaimer::process().idle()) throw;
  }
  Reclaimer::process().wait();
  return backend.allocate(bytes, what);
}

}  // namespace millrace
