#include "core/memory.h"

#include <sys/mman.h>

#include "core/error.h"

namespace millrace {

Error locked_memory_error(const char* what, size_t bytes) {
  return Error(
      code::kOutOfMemory,
      format("%s needs %.1f MiB of locked system memory, which the system does not give: too little is free, or "
             "this process may lock no more",
             what, static_cast<double>(bytes) / (1 << 20)),
      "free system memory, or raise the limit on locked memory: ulimit -l unlimited, in a container "
      "--ulimit memlock=-1");
}

HostMemory::HostMemory(size_t bytes, const char* what) : bytes_(bytes) {
  if (bytes == 0) return;
  constexpr size_t kHugePage = size_t{2} << 20;
  void* p = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) {
    throw Error(
        code::kOutOfMemory,
        format("%s needs %.1f MiB of system memory, which could not be reserved", what,
               static_cast<double>(bytes) / (1 << 20)),
        "free memory, choose a smaller model, lower contextLength, or raise the limit on address space (ulimit -v)");
  }
  // Large weights are read in long streams: huge pages spare the TLB.
  if (bytes >= 8 * kHugePage) ::madvise(p, bytes, MADV_HUGEPAGE);
  data_ = static_cast<std::byte*>(p);
}

HostMemory::~HostMemory() {
  if (data_ != nullptr) ::munmap(data_, bytes_);
}

}  // namespace millrace
