#pragma once
// A whole file mapped read-only.
#include <cstddef>
#include <cstdint>
#include <string>

namespace millrace {

// The size is taken once, at open. A file that somebody truncates afterwards raises SIGBUS where it is read: there is
// no portable defence short of copying it, and checkpoints are not files that others write to.
class MappedFile {
 public:
  // Throws CHECKPOINT_NOT_FOUND if `path` cannot be opened, is no regular file, or cannot be mapped.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::byte* data() const { return data_; }
  uint64_t size() const { return size_; }

  // Takes the pages that bytes [offset, offset + bytes) touch out of this process's resident set; read again, they
  // come back from the page cache or the disk.
  void drop(uint64_t offset, uint64_t bytes) const;
  // Starts reading those pages from the disk.
  void prefetch(uint64_t offset, uint64_t bytes) const;

 private:
  void advise(uint64_t offset, uint64_t bytes, int advice) const;
  const std::byte* data_ = nullptr;
  uint64_t size_ = 0;
};

}  // namespace millrace
