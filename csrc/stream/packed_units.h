#pragma once
// Units that stay in a packed file: where they are in it, and how pieces of them are read. Each piece is checked by its
// hash whenever it is read, in the cache of the core that read it: a file that is cut short or written to while a model
// uses it is noticed by the pass that meets it, and costs a load nothing.
//
// Reads go past the page cache where the file system has direct reads; elsewhere what was read is dropped from there,
// so that memory does not hold the model twice. A file that is replaced or removed is read on as it was.
#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "stream/packed_layout.h"

namespace millrace {

class PackedUnits {
 public:
  // Takes the descriptor.
  PackedUnits(int fd, std::string path, const packed::FileLayout& layout, std::vector<uint64_t> hashes);

  size_t bytes(int unit) const { return packed_bytes(unit); }
  // What memory for the unit must have: whole pages, and it begins on one.
  size_t padded_bytes(int unit) const;
  size_t pieces(int unit) const { return packed::pieces_of(packed_bytes(unit)); }
  // Piece `piece` of the unit to its place in the unit's memory. Throws READ_FAILED. Any thread.
  void read_piece(int unit, size_t piece, std::byte* memory) const;
  const std::string& path() const { return path_; }
  // Reads go past the page cache.
  bool direct() const { return direct_.load(std::memory_order_relaxed); }

  // For tests: in the place of pread().
  using ReadAt = std::function<ssize_t(int fd, void* to, size_t bytes, off_t offset)>;
  void replace_read(ReadAt read) { read_ = std::move(read); }

 private:
  size_t packed_bytes(int unit) const { return parts_[static_cast<size_t>(unit) + 1].bytes; }
  // False at the end of the file and at errors, as File::read() tells them.
  bool read(std::byte* to, size_t bytes, uint64_t offset) const;

  const packed::File file_;
  const std::string path_;
  const std::vector<packed::PartEntry> parts_;
  const std::vector<uint64_t> hashes_;
  std::vector<size_t> first_piece_;  // of each part
  ReadAt read_;
  mutable std::atomic<bool> direct_{false};
};

}  // namespace millrace
