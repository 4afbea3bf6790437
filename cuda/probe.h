#pragma once
// Which GPUs there are, or why there are none. Needs neither Node nor, to be included, CUDA.
#include <cstdint>
#include <string>
#include <vector>

namespace millrace {

struct GpuInfo {
  int index = 0;  // as cudaSetDevice takes it
  std::string name;
  int compute_major = 0;
  int compute_minor = 0;
  uint64_t memory_bytes = 0;
  uint64_t memory_free_bytes = 0;  // memory_bytes where the driver's management library does not tell
  std::string link;                // "PCIe 5.0 x16": what card and slot can do at most, or "unknown"
};

struct GpuProbe {
  std::vector<GpuInfo> gpus;
  bool lost = false;   // a fault has ended the use of GPUs in this process; `gpus` is empty
  std::string reason;  // why `gpus` is empty, in a sentence; otherwise ""
};

// Creates no CUDA context, so it costs no GPU memory. Throws nothing.
GpuProbe probe_gpus();

}  // namespace millrace
