#include "checkpoint/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "checkpoint/messages.h"
#include "core/error.h"

namespace millrace {

namespace {

[[noreturn]] void fail(const std::string& path, const char* what) {
  throw Error(code::kCheckpointNotFound, format("%s: %s", printable(path, 400).c_str(), what),
              "check the path and the file's permissions");
}

// What the system has no more of is no fault of the file.
[[noreturn]] void fail(const std::string& path, int why) {
  const std::string sentence = format("%s: %s", printable(path, 400).c_str(), std::strerror(why));
  if (why == ENOMEM) {
    throw Error(code::kOutOfMemory, sentence, "free memory, or raise the limit on address space (ulimit -v)");
  }
  if (why == EMFILE || why == ENFILE) {
    throw Error(code::kOutOfMemory, sentence, "close files, or raise the limit on open ones (ulimit -n)");
  }
  fail(path, std::strerror(why));
}

}  // namespace

MappedFile::MappedFile(const std::string& path) {
  int fd;
  do {
    // Without O_NONBLOCK, opening a named pipe would wait for a writer.
    fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) fail(path, errno);
  struct stat info;
  if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    ::close(fd);
    fail(path, "not a regular file");
  }
  size_ = static_cast<uint64_t>(info.st_size);
  if (size_ > 0) {
    void* p = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) {
      const int why = errno;
      ::close(fd);
      fail(path, why);
    }
    data_ = static_cast<const std::byte*>(p);
  }
  ::close(fd);  // the mapping keeps the file
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::advise(uint64_t offset, uint64_t bytes, int advice) const {
  if (data_ == nullptr || bytes == 0 || offset >= size_) return;
  const uint64_t page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  const uint64_t begin = offset / page * page;
  const uint64_t end = bytes < size_ - offset ? offset + bytes : size_;
  // Advice only: a kernel that refuses it costs memory or time, not correctness.
  ::madvise(const_cast<std::byte*>(data_) + begin, end - begin, advice);
}

// Rounded outwards: the mapping is read-only, so a neighbour that still reads a shared page only faults it in again.
void MappedFile::drop(uint64_t offset, uint64_t bytes) const {
  advise(offset, bytes, MADV_DONTNEED);
}
void MappedFile::prefetch(uint64_t offset, uint64_t bytes) const {
  advise(offset, bytes, MADV_WILLNEED);
}

}  // namespace millrace
