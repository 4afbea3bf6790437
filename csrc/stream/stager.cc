#include "stream/stager.h"

#include <algorithm>
#include <cstring>

namespace millrace {

namespace {

constexpr size_t kShare = size_t{256} << 10;  // of a piece, for one thread at a time

}  // namespace

Stager::Stager(Backend& backend, int threads, size_t piece_bytes, int pieces)
    : backend_(backend), piece_bytes_(piece_bytes), pieces_(pieces), pool_(threads) {}

Stager::~Stager() {
  for (const Piece& piece : window_) {
    try {
      piece.copied->synchronize();
    } catch (const std::exception&) {
      // A device that is lost copies no more: there is nothing to wait for.
    }
  }
}

void Stager::copy(Stream& stream, std::byte* destination, const std::byte* source, size_t bytes) {
  while (window_.size() < static_cast<size_t>(pieces_)) {
    window_.push_back({backend_.allocate_host(piece_bytes_, "the staging window"), backend_.create_event()});
  }
  for (size_t begin = 0; begin < bytes; begin += piece_bytes_) {
    const size_t count = std::min(piece_bytes_, bytes - begin);
    Piece& piece = window_[next_];
    next_ = (next_ + 1) % window_.size();
    piece.copied->synchronize();
    std::byte* to = piece.memory->data();
    const std::byte* from = source + begin;
    pool_.parallel_for(static_cast<int64_t>((count + kShare - 1) / kShare), [&](int64_t index, int) {
      const size_t at = static_cast<size_t>(index) * kShare;
      std::memcpy(to + at, from + at, std::min(kShare, count - at));
    });
    stream.copy(destination + begin, to, count);
    stream.record(*piece.copied);
  }
}

}  // namespace millrace
