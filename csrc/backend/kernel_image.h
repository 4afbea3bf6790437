#pragma once
// A kernel of somebody else's that is to take the place of one operation on a GPU (csrc/lab/millrace_kernel.h).
#include <cstddef>
#include <string>
#include <vector>

namespace millrace {

struct KernelImage {
  std::string operation;         // 'gemv_q4', ...: also the kernel's name in the image
  std::string source;            // where it came from, for messages
  std::vector<std::byte> bytes;  // cubin, fatbin or PTX
};

}  // namespace millrace
