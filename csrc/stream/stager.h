#pragma once
// Copies pageable memory to the device at more than the driver's own speed: threads fill a pinned window in turns while
// the copy stream empties it. The caller waits until the last piece is in the window.
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "core/thread_pool.h"

namespace millrace {

class Stager {
 public:
  // Takes `pieces` x `piece_bytes` of pinned memory with the first copy.
  Stager(Backend& backend, int threads, size_t piece_bytes = size_t{8} << 20, int pieces = 4);
  ~Stager();

  void copy(Stream& stream, std::byte* destination, const std::byte* source, size_t bytes);

 private:
  struct Piece {
    std::unique_ptr<Memory> memory;
    std::unique_ptr<Event> copied;  // the device has taken what was in it
  };

  Backend& backend_;
  const size_t piece_bytes_;
  const int pieces_;
  ThreadPool pool_;
  std::vector<Piece> window_;
  size_t next_ = 0;
};

}  // namespace millrace
