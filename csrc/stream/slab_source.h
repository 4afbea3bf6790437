#pragma once
// Where the copies of the stream come from. Pinned system RAM is the first kind: permanent and read-only, so evicting
// a unit from the device costs nothing. Room for: a file, pageable memory or a peer GPU, filling a pinned window.
#include <cstddef>

namespace millrace {

class SlabSource {
 public:
  virtual ~SlabSource() = default;
  // The unit's slab in host memory, unchanged for as long as the source lives.
  virtual const std::byte* slab(int unit) const = 0;
  // A device can copy it on its own; until then it goes through a pinned window. Any thread; never false again.
  virtual bool pinned(int unit) const = 0;
};

}  // namespace millrace
