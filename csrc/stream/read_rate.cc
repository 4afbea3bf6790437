#include "stream/read_rate.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>
#include <vector>

#include "core/error.h"
#include "core/memory.h"

namespace millrace {
namespace {

constexpr size_t kPage = 4096, kMost = size_t{4} << 20;  // of a piece

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

[[noreturn]] void fail(const std::string& path, const std::string& why) {
  throw Error(code::kReadFailed, path + " cannot be read: " + why, "see to the disk, or name another folder");
}

class OpenFile {
 public:
  explicit OpenFile(const std::string& path) : fd_(::open(path.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC)) {
    direct_ = fd_ >= 0 || errno != EINVAL;
    if (!direct_) fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd_ < 0) fail(path, std::strerror(errno));
  }
  ~OpenFile() { ::close(fd_); }
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;

  int fd() const { return fd_; }
  bool direct() const { return direct_; }

 private:
  int fd_;
  bool direct_;
};

}  // namespace

ReadRate measure_read_rate(const std::string& path, const ReadRateOptions& options) {
  const OpenFile file(path);
  struct stat status;
  if (::fstat(file.fd(), &status) != 0) fail(path, std::strerror(errno));
  const size_t size = static_cast<size_t>(status.st_size) / kPage * kPage;
  ReadRate found;
  found.direct = file.direct();
  found.piece_bytes = std::min(size, kMost);
  if (found.piece_bytes == 0) fail(path, "it has less than a page");
  const size_t all = size / found.piece_bytes;
  found.pieces = std::clamp<size_t>(options.bytes / found.piece_bytes, 1, all);
  const size_t first = (all - found.pieces) / 2;

  // Memory of the same kind as the window's: what a disk is asked for at once depends on the pages that it writes to.
  const HostMemory memory(found.piece_bytes * static_cast<size_t>(options.threads), "what is read");
  std::vector<double> rates;
  const Clock::time_point start = Clock::now();
  while (static_cast<int>(rates.size()) < std::max(options.rounds, 2) &&
         (rates.size() < 2 || seconds_since(start) < options.seconds)) {
    if (!found.direct) ::posix_fadvise(file.fd(), 0, 0, POSIX_FADV_DONTNEED);
    std::atomic<size_t> next{0};
    std::atomic<int> failure{0};
    const Clock::time_point begin = Clock::now();
    std::vector<std::thread> threads;
    for (int t = 0; t < options.threads; t++) {
      threads.emplace_back([&, to = memory.data() + found.piece_bytes * static_cast<size_t>(t)] {
        for (size_t piece = next++; piece < found.pieces && failure == 0; piece = next++) {
          const auto at = static_cast<off_t>((first + piece) * found.piece_bytes);
          const ssize_t got = ::pread(file.fd(), to, found.piece_bytes, at);
          if (got != static_cast<ssize_t>(found.piece_bytes)) failure = got < 0 ? errno : EIO;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    if (failure != 0) fail(path, std::strerror(failure));
    rates.push_back(static_cast<double>(found.pieces * found.piece_bytes) / seconds_since(begin));
  }
  std::sort(rates.begin() + 1, rates.end());
  found.bytes_per_second = rates[1 + (rates.size() - 1) / 2];
  return found;
}

}  // namespace millrace
