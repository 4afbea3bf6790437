#pragma once
// What the host knows of a device's table of unit addresses, which kernels read: never more than what the device was
// told by a launch that succeeded.
#include <cstddef>
#include <utility>
#include <vector>

namespace millrace {

class UnitTable {
 public:
  explicit UnitTable(size_t units = 0) : entries_(units) {}

  // set() of these would change something: an address, or when kernels may read it.
  bool changes(int unit, const std::byte* slab, bool permanent) const {
    const Entry& entry = entries_[unit];
    return entry.slab != slab || entry.early != permanent;
  }

  // The unit is at `slab` from here on. `publish` enqueues the write of the device's entry, if that has another
  // address, and throws where it cannot: the address then counts as unknown, and the next call publishes whatever it is
  // given.
  template <typename Publish>
  void set(int unit, const std::byte* slab, bool permanent, Publish&& publish) {
    Entry& entry = entries_[unit];
    const bool moved = entry.slab != slab;
    entry.early = permanent && !moved;
    if (!moved) return;
    entry.slab = nullptr;
    std::forward<Publish>(publish)();
    entry.slab = slab;
  }

  // A kernel that begins before its predecessor has ended may read the entry and the weights: the unit is where it is
  // for good, and was there already when it was set before. (An entry that a launch ahead of the kernel writes may not
  // be there yet.)
  bool early(int unit) const { return entries_[unit].early; }
  // Of all that have been set: units elsewhere never are.
  bool all_early() const {
    for (const Entry& entry : entries_) {
      if (entry.slab != nullptr && !entry.early) return false;
    }
    return true;
  }
  // For tests that prove the rule of early() necessary.
  void force_early(int unit) { entries_[unit].early = true; }

 private:
  struct Entry {
    const std::byte* slab = nullptr;
    bool early = false;
  };
  std::vector<Entry> entries_;
};

}  // namespace millrace
