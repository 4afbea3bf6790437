#pragma once
// Serves units to the compute stream: the address of one that rests in device memory, or a ring slot whose copy the
// compute stream waits for. Runs ahead of the pass as far as the ring reaches, across the end of the pass too, and
// never blocks the host (but where slabs are not pinned, and a window must be filled by threads):
//
//   copy stream:     wait free(slot's last user) | copy slab -> slot | record ready
//   compute stream:  wait ready | the unit's kernels | [poison the slot] | record free
//
// Which units pass through the ring depends on the pass: those whose home is the CPU are computed there, but streamed
// through the device when a pass holds prefill rows; those whose home is the shared arena pass through the ring while
// they have no room there.
//
// Units that stay in a packed file come through a window (file_window.h): what is copied is copied from there, once it
// has been read, and for no copy but that of the unit that compute is to have next does the host wait. Where the device
// reads host memory, resident ones are computed in a window of their own.
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "stream/arena.h"
#include "stream/file_window.h"
#include "stream/ring.h"
#include "stream/slab_source.h"
#include "stream/stager.h"
#include "stream/trace.h"

namespace millrace {

enum class Home : uint8_t {
  resident,  // in device memory for good
  streamed,  // in system RAM, copied for every pass
  cpu,       // in system RAM, computed there
  shared,    // in the device's arena, as long as no other model needs the room
  demand,    // all but its experts in device memory for good; those apart (expert_store.h), but in passes with prompts,
             // which stream it whole
  elsewhere,  // on another device, which has a feeder of its own
};

// For the tests that prove each wait necessary: the nth wait of a kind is left out.
struct FeederHooks {
  int64_t skip_ready_wait = -1;
  int64_t skip_free_wait = -1;
  int64_t skip_place_wait = -1;  // for a unit on its way to memory of its own
};

struct FeederConfig {
  std::vector<size_t> unit_bytes;  // of every unit's slab
  std::vector<size_t> own_bytes;   // [units], or empty: of a unit at home on demand, what lies before its experts
  std::vector<Home> homes;         // [units]
  size_t ring_bytes = 0;           // at least the largest unit that may pass through it
  Arena* arena = nullptr;          // of shared units; used from begin() on, by the thread that calls it
  size_t arena_beside = 0;         // bytes of another tenant's units that every pass needs too: of the arena its share
  int stage_threads = 1;           // that copy slabs which are not pinned
  size_t window_bytes = 0;         // of each window through which units of the file come
  bool poison = false;             // fill freed slots with 0xff: NaN as a float16, bfloat16 or float32
  FeederHooks hooks;
  WindowHooks window_hooks;
};

struct FeederCounters {
  uint64_t copied_bytes = 0;      // enqueued, into the ring and for passes into the arena
  uint64_t prefetched_bytes = 0;  // the part of it that no acquire has taken yet
  uint64_t acquired_units = 0;    // streamed units handed to compute
  uint64_t ready_waits = 0;
  uint64_t free_waits = 0;
  uint64_t place_waits = 0;
  uint64_t staged_bytes = 0;   // of the copied bytes, those that were not pinned
  uint64_t dropped_bytes = 0;  // copied for a pass that then needed other units
  uint64_t shared_bytes = 0;   // of the copied bytes, those that went into the arena
  uint64_t file_bytes = 0;     // that passes, copies and moves took from the packed file

  FeederCounters& operator+=(const FeederCounters& other);
};

// Which units a pass streams.
enum class Route : uint8_t {
  decode,   // those whose home is `streamed`
  prefill,  // those at home on the CPU too: with prompts, and with more sequences than the CPU is meant to serve
};

class Feeder final : private Arena::Tenant {
 public:
  // Uploads resident units, unless the backend reads host memory where it lies. `source` outlives the feeder.
  Feeder(Backend& backend, const SlabSource& source, FeederConfig config);
  // Waits for the copies under way. The compute stream must have run what it was handed.
  ~Feeder() override;

  // Begins to copy the first units of a pass, of the decode route until begin() says otherwise. Passes use streamed
  // units in ascending order, each once.
  void prefetch();
  // A pass begins. What was copied ahead for the other route and is of no use to this one is dropped; shared units that
  // are not in the arena are on their way there. `next`: of the pass that is expected after it, for which copies run
  // ahead.
  void begin(Route route, Route next = Route::decode);
  // The unit passes through the ring, or the window in which it is computed, in this pass.
  bool streams(int unit) const { return ringed_[unit] || windowed(unit); }
  // Passes read units in the packed file.
  bool reads_file() const;
  // The unit is on the device, complete since before this pass, and stays there until the pass has ended.
  bool permanent(int unit) const { return !streams(unit) && places_[unit].state == Place::there; }
  // Bytes that a pass of the decode route would have to copy before it could go on as fast as the device computes.
  size_t missing_bytes();
  // The address at which kernels enqueued on `compute` from here to release() find the unit's weights.
  const std::byte* acquire(Stream& compute, int unit);
  void release(Stream& compute, int unit);

  // After a pass that was given up: forgets the slots of that pass and begins anew. The compute stream must have run
  // what it was handed.
  void restart();

  // Gives up what it has in the arena, for good; no pass follows. Of the thread that calls begin().
  void leave_arena();

  // Between passes, with the compute stream at rest: other homes and another ring. Units that become resident are
  // uploaded behind what compute does; where the device has no room for one it stays streamed. Throws what
  // check_homes() does; nothing has changed then.
  void set_homes(std::vector<Home> homes, size_t ring_bytes);
  // Throws INVALID_ARGUMENT if a unit would move to the CPU or from there, or the ring is too small.
  void check_homes(const std::vector<Home>& homes, size_t ring_bytes) const;

  // Copies appear in it from here on; null: nowhere. `names` of the units.
  void set_trace(Trace* trace, Trace::Track track, std::vector<std::string> names);

  const std::vector<Home>& homes() const { return config_.homes; }
  FeederCounters counters() const;
  size_t ring_bytes() const { return ring_memory_ ? ring_memory_->size() : 0; }
  size_t resident_bytes() const;
  size_t shared_bytes() const;

 private:
  struct Slot {
    Ring::Slot place;
    int unit = 0;
    Event* ready = nullptr;
  };
  // Of a unit that is in device memory, or on its way there.
  struct Place {
    enum State : uint8_t { absent, coming, there } state = absent;
    std::unique_ptr<Memory> memory;  // resident
    Arena::Block* block = nullptr;   // shared
    const std::byte* address = nullptr;
    std::unique_ptr<Event> ready;  // while it is coming
    bool waited = false;           // by the compute stream
  };

  void evicted(int unit) override;
  // Waits for the copies under way; that one of them has failed restart() will know.
  void drain();
  void check(const std::vector<Home>& homes, size_t ring_bytes) const;
  void make_ring(size_t bytes);
  // Begins to bring a unit to device memory that is its own.
  void bring(int unit, std::byte* memory);
  void enqueue_copy(std::byte* destination, int unit, size_t bytes);
  // In device memory that is its own.
  size_t own_bytes(int unit) const;
  void choose_wanted();
  // Which units pass through the ring in passes of a route, by what is in the arena now.
  std::vector<int> ring_order(Route route) const;
  // Enqueues copies of the units to come for as long as the ring has room. `waits`: for the file too, if nothing is in
  // the ring.
  void pump(bool waits = false);
  // The unit is computed in a window of the file.
  bool windowed(int unit) const {
    return config_.homes[unit] == Home::resident && backend_.reads_host_memory() && source_.in_file(unit);
  }
  void make_windows();
  // Tells the windows what comes.
  void expect();
  Event& event_of(std::vector<std::unique_ptr<Event>>& events, uint64_t sequence);

  Backend& backend_;
  const SlabSource& source_;
  FeederConfig config_;
  std::vector<Place> places_;  // [units]
  std::vector<bool> ringed_;   // [units], in the pass that compute is in
  std::vector<bool> wanted_;   // [units], shared ones that are to be in the arena, as far as its limit goes
  size_t wanted_limit_ = SIZE_MAX;
  std::deque<int> to_fill_;     // units of this pass, then of the next, whose copies into the ring come next
  std::vector<int> next_pass_;  // streamed units of the pass that is expected after this one
  Ring ring_;
  std::unique_ptr<Memory> ring_memory_;
  std::unique_ptr<Stream> copy_;
  std::unique_ptr<Stager> stager_;  // once it is needed
  // Units of the file on their way to copies, and those that are computed where they were read; if there are any.
  std::unique_ptr<FileWindow> window_, computed_;
  // Events by slot sequence, reused in turn: more of them than slots that can be live or stale at once.
  std::vector<std::unique_ptr<Event>> ready_;
  std::vector<std::unique_ptr<Event>> free_;
  std::deque<Slot> slots_;      // copied or being copied, oldest first
  bool copies_failed_ = false;  // since the last restart()
  FeederCounters counters_;
  Trace* trace_ = nullptr;
  Trace::Track track_ = Trace::copies;
  std::vector<std::string> names_;
};

}  // namespace millrace
