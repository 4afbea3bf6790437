#pragma once
// What the targets that read whole safetensors files share.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/repack.h"
#include "core/error.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t capacity);

namespace millrace::fuzz {

// A file in memory, by a path.
class MemoryFile {
 public:
  explicit MemoryFile(std::string_view bytes) : fd_(::memfd_create("fuzz", 0)) {
    if (fd_ < 0 || ::write(fd_, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) std::abort();
  }
  ~MemoryFile() { ::close(fd_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  std::string path() const { return "/proc/self/fd/" + std::to_string(fd_); }

 private:
  int fd_;
};

// Plans a model and, where that is let through, repacks it into slabs of exactly the planned size and decodes every
// matrix. Returns whether it got there; refusals are millrace::Error, anything else ends the process.
inline bool load(const std::vector<std::string>& paths, const ModelSource& source) {
  // What a hostile file may make a plan ask for is bounded by what the file holds; here also for speed.
  constexpr size_t kMostBytes = size_t{64} << 20;
  static ThreadPool pool(1);
  try {
    const Checkpoint checkpoint(paths);
    const SlabPlan plan = plan_slabs(checkpoint, source);
    if (plan.slab_bytes() > kMostBytes) return false;
    std::vector<std::vector<std::byte>> slabs;
    std::vector<std::byte*> pointers;
    for (const UnitLayout& unit : plan.units) slabs.emplace_back(unit.bytes);
    for (auto& slab : slabs) pointers.push_back(slab.data());
    std::vector<std::byte> embedding(plan.embedding_bytes);
    repack(checkpoint, plan, pointers, embedding.data(), pool, {});
    for (size_t u = 0; u < plan.units.size(); u++) {
      for (const LinearLayout& linear : plan.units[u].linears) {
        for (const LinearLayout::Segment& segment : linear.segments) decode_matrix(segment.matrix, pointers[u]);
      }
    }
    return true;
  } catch (const Error&) {
    return false;
  }
}

}  // namespace millrace::fuzz
