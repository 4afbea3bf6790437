#include "stream/packed_units.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "core/error.h"
#include "core/memory.h"

namespace millrace {

using namespace packed;

namespace {

bool set_direct(int fd, bool direct) {
  const int flags = ::fcntl(fd, F_GETFL);
  return flags >= 0 && ::fcntl(fd, F_SETFL, direct ? flags | O_DIRECT : flags & ~O_DIRECT) == 0;
}

}  // namespace

PackedUnits::PackedUnits(int fd, std::string path, const FileLayout& layout, std::vector<uint64_t> hashes)
    : file_(fd), path_(std::move(path)), parts_(layout.parts), hashes_(std::move(hashes)) {
  size_t piece = 0;
  for (const PartEntry& part : parts_) {
    first_piece_.push_back(piece);
    piece += pieces_of(part.bytes);
  }
  // What the load has left in the page cache: units that are in memory now need it no more.
  ::posix_fadvise(file_.fd(), 0, 0, POSIX_FADV_DONTNEED);
  direct_.store(set_direct(file_.fd(), true), std::memory_order_relaxed);
}

size_t PackedUnits::padded_bytes(int unit) const {
  return round_up(packed_bytes(unit), kPage);
}

bool PackedUnits::read(std::byte* to, size_t bytes, uint64_t offset) const {
  while (bytes > 0) {
    const auto at = static_cast<off_t>(offset);
    const ssize_t n = read_ ? read_(file_.fd(), to, bytes, at) : ::pread(file_.fd(), to, bytes, at);
    if (n < 0 && errno == EINTR) continue;
    // Some file systems take the flag and not the reads; and where a read has ended within a page, so begins the next.
    if (n < 0 && errno == EINVAL && direct_.exchange(false, std::memory_order_relaxed)) {
      set_direct(file_.fd(), false);
      continue;
    }
    if (n <= 0) {
      if (n == 0) errno = 0;
      return false;
    }
    to += n;
    offset += static_cast<uint64_t>(n);
    bytes -= static_cast<size_t>(n);
  }
  return true;
}

void PackedUnits::read_piece(int unit, size_t piece, std::byte* memory) const {
  const auto part = static_cast<size_t>(unit) + 1;
  const size_t begin = piece * kPackedPiece;
  const size_t bytes = std::min(kPackedPiece, static_cast<size_t>(parts_[part].bytes) - begin);
  const uint64_t offset = parts_[part].offset + begin;
  const auto refuse = [&](const std::string& what, const char* remedy) {
    return Error(code::kReadFailed, "weights that stay in the packed file " + path_ + " cannot be used: " + what,
                 remedy);
  };
  // Parts are padded to whole pages in the file, and so are reads.
  if (!read(memory + begin, round_up(bytes, kPage), offset)) {
    if (errno != 0)
      throw refuse(read_failure(), "ask again; if that fails too, see to the disk and load the model again");
    throw refuse("it was cut short", "load the model again: the file is then made anew");
  }
  if (hash_bytes(memory + begin, bytes) != hashes_[first_piece_[part] + piece]) {
    if (has_name(file_.fd(), path_)) ::unlink(path_.c_str());
    throw refuse(format("its bytes from %llu on have changed", static_cast<unsigned long long>(offset)),
                 "load the model again: the file is then made anew");
  }
  if (!direct()) {
    ::posix_fadvise(file_.fd(), static_cast<off_t>(offset), static_cast<off_t>(bytes), POSIX_FADV_DONTNEED);
  }
}

}  // namespace millrace
