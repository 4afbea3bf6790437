#pragma once
// Where the copies of the stream come from. Pinned system RAM is the first kind: permanent and read-only, so evicting
// a unit from the device costs nothing. Pageable memory and a file fill pinned windows (stager.h, file_window.h). Room
// for: a peer GPU.
#include <cstddef>
#include <memory>

namespace millrace {

class PackedUnits;

class SlabSource {
 public:
  virtual ~SlabSource() = default;
  // The unit's slab in host memory, unchanged for as long as the source lives; not of one that stays in the file.
  virtual const std::byte* slab(int unit) const = 0;
  // A device can copy it on its own; until then it goes through a pinned window. Any thread; never false again.
  virtual bool pinned(int unit) const = 0;
  // The unit is read from file() for every use, and is in memory meanwhile alone.
  virtual bool in_file(int) const { return false; }
  virtual std::shared_ptr<const PackedUnits> file() const { return nullptr; }
};

}  // namespace millrace
