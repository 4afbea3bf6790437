#pragma once
// How fast a disk gives the pieces of a file that are read past the page cache: the rate of models whose units stay in
// a packed file.
#include <cstddef>
#include <cstdint>
#include <string>

namespace millrace {

struct ReadRate {
  double bytes_per_second = 0;  // the median round but the first
  size_t pieces = 0, piece_bytes = 0;
  bool direct = true;  // false: the file system has no reads past the page cache, and was told to drop what was read
};

struct ReadRateOptions {
  size_t bytes = SIZE_MAX;  // from the file's middle, each round once; at most all of it
  int threads = 8;          // as a window has
  int rounds = 6;           // 2 at least
  double seconds = 1e9;     // of all rounds: no other begins after them, but for the second
};

// Throws Error READ_FAILED: the file cannot be opened or read, or has less than a page.
ReadRate measure_read_rate(const std::string& path, const ReadRateOptions& options);

}  // namespace millrace
