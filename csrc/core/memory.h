#pragma once
// Page-aligned host memory that owns itself. Pages are zero and untouched until written, so a large reservation costs
// address space only.
#include <cstddef>
#include <utility>

#include "core/error.h"

namespace millrace {

// The host does not pin `bytes` of its memory for a device: OUT_OF_MEMORY, of the host and of no device.
Error locked_memory_error(const char* what, size_t bytes);

class HostMemory {
 public:
  HostMemory() = default;
  // Reserves `bytes` (rounded up to pages). Throws OUT_OF_MEMORY naming `what` and the size.
  HostMemory(size_t bytes, const char* what);
  ~HostMemory();
  HostMemory(HostMemory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  HostMemory& operator=(HostMemory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }

  std::byte* data() const { return data_; }
  size_t size() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

inline constexpr size_t round_up(size_t value, size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace millrace
