#pragma once
// The window through which units that stay in a packed file come: threads read them into pinned memory, in the order in
// which passes take them, as far ahead as the window reaches and across the end of a pass. What takes a unit, a copy to
// a device or the CPU's kernels themselves, is followed by an event, for which the next read into that memory waits:
//
//   reading threads:  wait free(slot's last user) | read and check the unit's pieces -> slot
//   host:             wait until the slot is whole | enqueue what uses it | record free
//
// A read that fails is told to whoever takes the unit, and tried again when it is taken again.
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "backend/backend.h"
#include "core/error.h"
#include "stream/packed_units.h"
#include "stream/ring.h"

namespace millrace {

// For tests: what is left out, as the nth of its kind, and what threads do before they read a piece.
struct WindowHooks {
  int64_t skip_read_wait = -1;  // for a unit that is not whole yet
  int64_t skip_free_wait = -1;  // before memory that was used is read into
  std::function<void()> before_read;
};

class FileWindow {
 public:
  // `bytes`: at least what the largest unit takes in memory (PackedUnits::padded_bytes). Throws OUT_OF_MEMORY.
  FileWindow(Backend& backend, std::shared_ptr<const PackedUnits> file, const std::vector<int>& units, size_t bytes,
             WindowHooks hooks = {});
  // Waits for reads under way. What was enqueued behind take() has run.
  ~FileWindow();
  FileWindow(const FileWindow&) = delete;
  FileWindow& operator=(const FileWindow&) = delete;

  // The units that will be taken: these, then `again` in a circle. What was read for another order is dropped.
  void expect(std::vector<int> first, std::vector<int> again);
  // The next unit to be taken is this one, and take() would not wait.
  bool ready(int unit) const;
  // Waits until the unit is whole. One that is not the next expected is read at once; nothing is expected behind it.
  // Throws READ_FAILED.
  const std::byte* take(int unit);
  // Of the unit taken last: its memory may be read into once `stream` has come so far. Always the same stream.
  void release(Stream& stream);
  // Forgets all that was read and expected; what was enqueued behind take() has run.
  void reset();

  // Of taken units.
  uint64_t taken_bytes() const { return taken_bytes_; }
  size_t bytes() const { return memory_->size(); }

 private:
  struct Slot {
    Ring::Slot place;
    int unit = 0;
    size_t pieces = 0, begun = 0, done = 0;
    int busy = 0;       // threads that have it in hand
    bool open = false;  // whoever used the memory before is done
    bool taken = false;
    std::optional<Error> failure;
    bool settled() const { return open && busy == 0 && (failure || done == pieces); }
  };

  void run();
  // Of the reading threads, under the mutex.
  Slot* slot_to_read();
  void read_piece(std::unique_lock<std::mutex>& lock, Slot& slot);
  bool open_next(std::unique_lock<std::mutex>& lock);
  int next_expected() const;
  Slot* first_untaken();
  void drop_behind(std::unique_lock<std::mutex>& lock, size_t kept);

  const std::shared_ptr<const PackedUnits> file_;
  const WindowHooks hooks_;
  std::unique_ptr<Memory> memory_;
  std::byte* begin_ = nullptr;                // of whole pages
  std::vector<std::unique_ptr<Event>> free_;  // by slot sequence, reused in turn
  uint64_t taken_bytes_ = 0;                  // of the thread that takes, as the counts
  int64_t read_waits_ = 0;

  mutable std::mutex mutex_;  // of all that follows
  std::condition_variable work_, changed_;
  std::deque<int> first_;   // expected
  std::vector<int> again_;  // behind them, in a circle
  size_t at_ = 0;           // in the circle
  Ring ring_;
  std::deque<Slot> slots_;  // oldest first: taken ones, then those that are read or being read
  int64_t free_waits_ = 0;
  bool opening_ = false;  // a thread waits for what used the next slot's memory: those behind it have no wait of theirs
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace millrace
