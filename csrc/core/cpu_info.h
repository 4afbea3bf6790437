#pragma once
// What this process may use of the machine: processor, cores and memory, as the kernel and control groups grant them.
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace millrace {

struct CpuInfo {
  std::string arch;                   // "x64", "arm64"
  std::string model;                  // as /proc/cpuinfo names it
  std::vector<std::string> features;  // those that kernels could use, in /proc/cpuinfo's spelling
  int cores = 1;                      // by affinity and cgroup quota, the quota rounded up
  int cores_online = 1;
  uint64_t memory_bytes = 0;
  uint64_t memory_limit_bytes = 0;      // of the tightest cgroup, or memory_bytes
  uint64_t memory_available_bytes = 0;  // without swapping, page cache counted as free, within the limit
};

// `root` stands in front of /proc and /sys: tests pass a folder of their own. What cannot be read keeps its default.
CpuInfo cpu_info(const std::string& root = "");

// Bytes a second of `threads` threads reading a buffer of `bytes` together, the best of three passes. The buffer must
// be several times the caches. Throws OUT_OF_MEMORY.
double measure_dram_bandwidth(int threads, size_t bytes);

// 1 GiB, or a quarter of the memory available if that is less.
size_t dram_buffer_bytes(const CpuInfo& info);

}  // namespace millrace
