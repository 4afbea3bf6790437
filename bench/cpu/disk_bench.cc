// Reads pieces of 4 MiB of a file past the page cache, again and again, and nothing else: what a disk gives a model
// whose units stay in a packed file. As many threads as the window has read into memory of the same kind, since what a
// disk is asked for at once depends on the pages it writes to.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "bench/usage.h"
#include "core/error.h"
#include "stream/read_rate.h"

using namespace millrace;

namespace {

constexpr const char* kUsage =
    "cpu_disk_bench --file PATH [--bytes N] [--threads 8] [--rounds 6]\n"
    "  the middle N bytes of the file (all of it), each round once; the median round but the first\n";

struct Options {
  std::string file;
  ReadRateOptions rate;
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
      options.rate.bytes = std::strtoull(value, nullptr, 10);
    } else if (name == "--threads") {
      options.rate.threads = std::max(1, std::atoi(value));
    } else if (name == "--rounds") {
      options.rate.rounds = std::max(2, std::atoi(value));
    } else {
      refuse(name, kUsage);
    }
  }
  if (options.file.empty()) refuse("--file", kUsage);
  return options;
}

}  // namespace

int main(int argc, char** argv) {
  help_if_asked(argc, argv, kUsage);
  const Options options = parse(argc, argv);
  try {
    const ReadRate found = measure_read_rate(options.file, options.rate);
    std::printf("%zu pieces of %zu bytes, %d threads: %.3f GB/s%s\n", found.pieces, found.piece_bytes,
                options.rate.threads, found.bytes_per_second / 1e9, found.direct ? "" : " (through the page cache)");
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
