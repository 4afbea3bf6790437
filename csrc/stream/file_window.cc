#include "stream/file_window.h"

#include <algorithm>
#include <utility>

#include "core/memory.h"

namespace millrace {

namespace {

// So many pieces under way keep a disk busy, while some threads check what they have read.
constexpr size_t kMostThreads = 8;

}  // namespace

FileWindow::FileWindow(Backend& backend, std::shared_ptr<const PackedUnits> file, const std::vector<int>& units,
                       size_t bytes, WindowHooks hooks)
    : file_(std::move(file)), hooks_(std::move(hooks)), ring_(0) {
  size_t largest = 0, smallest = SIZE_MAX;
  for (const int unit : units) {
    largest = std::max(largest, file_->padded_bytes(unit));
    smallest = std::min(smallest, file_->padded_bytes(unit));
  }
  const size_t size = std::max(bytes, largest) / packed::kPage * packed::kPage;
  memory_ = backend.allocate_host(size + packed::kPage, "the window of the file");
  const auto address = reinterpret_cast<uintptr_t>(memory_->data());
  begin_ = memory_->data() + (round_up(address, packed::kPage) - address);
  ring_ = Ring(size);
  // Slots live at once plus the stale ones of one full circle, each at least the smallest unit.
  const size_t events = 2 * (size / smallest + 2);
  while (free_.size() < events) free_.push_back(backend.create_event(EventUse::sleeps));
  const size_t threads = std::clamp<size_t>(size / kPackedPiece, 2, kMostThreads);
  for (size_t i = 0; i < threads; i++) threads_.emplace_back([this] { run(); });
}

FileWindow::~FileWindow() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  work_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

int FileWindow::next_expected() const {
  if (!first_.empty()) return first_.front();
  return again_.empty() ? -1 : again_[at_];
}

FileWindow::Slot* FileWindow::first_untaken() {
  for (Slot& slot : slots_) {
    if (!slot.taken) return &slot;
  }
  return nullptr;
}

void FileWindow::run() {
  std::unique_lock lock(mutex_);
  while (!stop_) {
    if (Slot* slot = slot_to_read()) {
      read_piece(lock, *slot);
    } else if (!open_next(lock)) {
      work_.wait(lock);
    }
  }
}

FileWindow::Slot* FileWindow::slot_to_read() {
  for (Slot& slot : slots_) {
    if (slot.open && !slot.failure && slot.begun < slot.pieces) return &slot;
  }
  return nullptr;
}

void FileWindow::read_piece(std::unique_lock<std::mutex>& lock, Slot& slot) {
  const size_t piece = slot.begun++;
  slot.busy++;
  std::byte* const memory = begin_ + slot.place.offset;
  const int unit = slot.unit;
  lock.unlock();
  std::optional<Error> failure;
  try {
    if (hooks_.before_read) hooks_.before_read();
    file_->read_piece(unit, piece, memory);
  } catch (...) {
    failure = current_error();
  }
  lock.lock();
  slot.busy--;
  slot.done++;
  if (failure && !slot.failure) slot.failure = std::move(failure);
  if (slot.busy == 0) changed_.notify_all();
}

bool FileWindow::open_next(std::unique_lock<std::mutex>& lock) {
  const int unit = next_expected();
  if (opening_ || unit < 0) return false;
  const std::optional<Ring::Slot> place = ring_.reserve(file_->padded_bytes(unit));
  if (!place) return false;
  if (!first_.empty()) {
    first_.pop_front();
  } else {
    at_ = (at_ + 1) % again_.size();
  }
  Slot& slot = slots_.emplace_back();
  slot.place = *place;
  slot.unit = unit;
  slot.pieces = file_->pieces(unit);
  if (place->after && free_waits_++ != hooks_.skip_free_wait) {
    Event& used = *free_[*place->after % free_.size()];
    slot.busy++;
    opening_ = true;
    lock.unlock();
    try {
      used.synchronize();
    } catch (const Error&) {
      // Of a stream that has failed nothing reads any more, and the step tells of it.
    }
    lock.lock();
    opening_ = false;
    slot.busy--;
    if (slot.busy == 0) changed_.notify_all();
  }
  slot.open = true;
  work_.notify_all();
  if (hooks_.skip_read_wait >= 0) changed_.notify_all();
  return true;
}

// Slots behind the first `kept`, once no thread has them in hand.
void FileWindow::drop_behind(std::unique_lock<std::mutex>& lock, size_t kept) {
  first_.clear();
  again_.clear();
  for (size_t i = kept; i < slots_.size(); i++) slots_[i].begun = slots_[i].pieces;
  changed_.wait(lock, [&] {
    for (size_t i = kept; i < slots_.size(); i++) {
      if (slots_[i].busy > 0) return false;
    }
    return true;
  });
  while (slots_.size() > kept) {
    ring_.cancel();
    slots_.pop_back();
  }
}

void FileWindow::expect(std::vector<int> first, std::vector<int> again) {
  std::unique_lock lock(mutex_);
  const auto expected = [&](size_t i) {
    if (i < first.size()) return first[i];
    return again.empty() ? -1 : again[(i - first.size()) % again.size()];
  };
  size_t taken = 0, fit = 0;
  while (taken < slots_.size() && slots_[taken].taken) taken++;
  while (taken + fit < slots_.size() && slots_[taken + fit].unit == expected(fit)) fit++;
  if (taken + fit < slots_.size()) drop_behind(lock, taken + fit);
  const size_t past = std::min(fit, first.size());
  first_.assign(first.begin() + static_cast<ptrdiff_t>(past), first.end());
  at_ = again.empty() ? 0 : (fit - past) % again.size();
  again_ = std::move(again);
  work_.notify_all();
}

bool FileWindow::ready(int unit) const {
  std::lock_guard lock(mutex_);
  for (const Slot& slot : slots_) {
    if (!slot.taken) return slot.unit == unit && slot.settled() && !slot.failure;
  }
  return false;
}

const std::byte* FileWindow::take(int unit) {
  std::unique_lock lock(mutex_);
  Slot* slot = first_untaken();
  if ((slot != nullptr ? slot->unit : next_expected()) != unit) {
    size_t taken = 0;
    while (taken < slots_.size() && slots_[taken].taken) taken++;
    drop_behind(lock, taken);
    first_ = {unit};
  } else if (slot != nullptr && slot->failure && slot->busy == 0) {  // by now it may be readable
    slot->failure.reset();
    slot->begun = slot->done = 0;
  }
  work_.notify_all();
  slot = first_untaken();
  const bool waits = slot == nullptr || !slot->settled();
  const bool skips = waits && read_waits_++ == hooks_.skip_read_wait;
  changed_.wait(lock, [&] {
    slot = first_untaken();
    return slot != nullptr && (skips ? slot->open : slot->settled());
  });
  if (slot->failure) throw Error(*slot->failure);
  slot->taken = true;
  taken_bytes_ += file_->bytes(unit);
  return begin_ + slot->place.offset;
}

void FileWindow::release(Stream& stream) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return slots_.front().busy == 0; });  // only where a wait was left out
  stream.record(*free_[slots_.front().place.sequence % free_.size()]);
  ring_.release();
  slots_.pop_front();
  work_.notify_all();
}

void FileWindow::reset() {
  std::unique_lock lock(mutex_);
  drop_behind(lock, 0);
  ring_ = Ring(ring_.bytes());
}

}  // namespace millrace
