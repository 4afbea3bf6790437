#include "stream/link.h"

#include <algorithm>
#include <chrono>
#include <cstring>

namespace millrace {

double measure_copy_bandwidth(Backend& backend, size_t bytes) {
  using Clock = std::chrono::steady_clock;
  const auto source = backend.allocate_host(bytes, "the source of measured copies");
  const auto destination = backend.allocate(bytes, "the destination of measured copies");
  const auto stream = backend.create_stream();
  std::memset(source->data(), 1, bytes);  // pages that nobody has written are all one and the same
  double best = 0;
  for (int run = 0; run < 5; run++) {
    const auto begin = Clock::now();
    stream->copy(destination->data(), source->data(), bytes);
    stream->synchronize();
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    best = std::max(best, static_cast<double>(bytes) / seconds);
  }
  return best;
}

}  // namespace millrace
