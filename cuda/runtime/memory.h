#pragma once
// Memory of a GPU, pinned memory of the host, and host memory of others that GPUs are let into.
#include <cstddef>
#include <cstdint>

#include "backend/backend.h"

namespace millrace::cuda {

// Device or pinned memory.
class CudaMemory final : public Memory {
 public:
  enum class Place : uint8_t { device, host };
  CudaMemory(int device, Place place, size_t bytes, const char* what);
  ~CudaMemory() override;
  CudaMemory(const CudaMemory&) = delete;
  CudaMemory& operator=(const CudaMemory&) = delete;
  std::byte* data() const override { return data_; }
  size_t size() const override { return bytes_; }

 private:
  int device_;
  Place place_;
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

// Host memory mapped into the GPUs' address space, for as long as somebody uses it: executors of one model share its
// table.
class HostRegistration {
 public:
  HostRegistration(const std::byte* data, size_t bytes, const char* what);
  ~HostRegistration();
  HostRegistration(const HostRegistration&) = delete;
  HostRegistration& operator=(const HostRegistration&) = delete;
  const std::byte* device_address() const { return device_address_; }

 private:
  const std::byte* data_;
  const std::byte* device_address_ = nullptr;
};

}  // namespace millrace::cuda
