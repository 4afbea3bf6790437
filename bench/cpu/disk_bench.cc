// Reads pieces of 4 MiB of a file past the page cache, again and again, and nothing else: what a disk gives a model
// whose units stay in a packed file. As many threads as the window has read into memory of the same kind, since what a
// disk is asked for at once depends on the pages it writes to.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "bench/usage.h"
#include "core/memory.h"

using namespace millrace;

namespace {

constexpr const char* kUsage =
    "cpu_disk_bench --file PATH [--bytes N] [--threads 8] [--rounds 6]\n"
    "  the middle N bytes of the file (all of it), each round once; the median round but the first\n";
constexpr size_t kPage = 4096, kMost = size_t{4} << 20;  // of a piece

struct Options {
  std::string file;
  size_t bytes = SIZE_MAX;
  int threads = 8;
  int rounds = 6;
};

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; i += 2) {
    const std::string name = argv[i];
    if (i + 1 == argc) refuse(name, kUsage);
    const char* value = argv[i + 1];
    if (name == "--file") {
      options.file = value;
    } else if (name == "--bytes") {
      options.bytes = std::strtoull(value, nullptr, 10);
    } else if (name == "--threads") {
      options.threads = std::max(1, std::atoi(value));
    } else if (name == "--rounds") {
      options.rounds = std::max(2, std::atoi(value));
    } else {
      refuse(name, kUsage);
    }
  }
  if (options.file.empty()) refuse("--file", kUsage);
  return options;
}

[[noreturn]] void fail(const Options& options) {
  std::fprintf(stderr, "%s cannot be read: %s\n", options.file.c_str(), std::strerror(errno));
  std::exit(1);
}

}  // namespace

int main(int argc, char** argv) {
  help_if_asked(argc, argv, kUsage);
  const Options options = parse(argc, argv);
  int fd = ::open(options.file.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC);
  // Some file systems have no reads past the page cache: then what is read is dropped from it before each round.
  const bool direct = fd >= 0 || errno != EINVAL;
  if (!direct) fd = ::open(options.file.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat status;
  if (fd < 0 || ::fstat(fd, &status) != 0) fail(options);
  const size_t size = static_cast<size_t>(status.st_size) / kPage * kPage;
  const size_t piece_bytes = std::min(size, kMost);
  if (piece_bytes == 0) {
    std::fprintf(stderr, "%s has less than a page\n", options.file.c_str());
    return 1;
  }
  const size_t all = size / piece_bytes;
  const size_t pieces = std::clamp<size_t>(options.bytes / piece_bytes, 1, all);
  const size_t first = (all - pieces) / 2;
  const HostMemory memory(piece_bytes * static_cast<size_t>(options.threads), "what is read");
  std::vector<double> rates;
  for (int round = 0; round < options.rounds; round++) {
    if (!direct) ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    std::atomic<size_t> next{0};
    std::atomic<bool> failed{false};
    const auto begin = std::chrono::steady_clock::now();
    std::vector<std::thread> threads;
    for (int t = 0; t < options.threads; t++) {
      threads.emplace_back([&, to = memory.data() + piece_bytes * static_cast<size_t>(t)] {
        for (size_t piece = next++; piece < pieces; piece = next++) {
          const auto at = static_cast<off_t>((first + piece) * piece_bytes);
          if (::pread(fd, to, piece_bytes, at) != static_cast<ssize_t>(piece_bytes)) failed = true;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    if (failed) fail(options);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    rates.push_back(static_cast<double>(pieces * piece_bytes) / seconds.count());
  }
  ::close(fd);
  std::sort(rates.begin() + 1, rates.end());
  std::printf("%zu pieces of %zu bytes, %d threads: %.3f GB/s%s\n", pieces, piece_bytes, options.threads,
              rates[1 + (rates.size() - 1) / 2] / 1e9, direct ? "" : " (through the page cache)");
  return 0;
}
