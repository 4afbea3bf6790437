#pragma once
// Serves units to the compute stream: a resident unit's address, or a ring slot whose copy the compute stream waits
// for. Runs ahead of the pass as far as the ring reaches, across the end of the pass too, and never blocks the host
// (but where slabs are not pinned, and a window must be filled by threads):
//
//   copy stream:     wait free(slot's last user) | copy slab -> slot | record ready
//   compute stream:  wait ready | the unit's kernels | [poison the slot] | record free
//
// Which units pass through the ring depends on the pass: those whose home is the CPU are computed there, but streamed
// through the device when a pass holds prefill rows.
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "stream/ring.h"
#include "stream/slab_source.h"
#include "stream/stager.h"

namespace millrace {

enum class Home : uint8_t { resident, streamed, cpu };

// For the tests that prove each wait necessary: the nth wait of a kind is left out.
struct FeederHooks {
  int64_t skip_ready_wait = -1;
  int64_t skip_free_wait = -1;
};

struct FeederConfig {
  std::vector<size_t> unit_bytes;  // of every unit's slab
  std::vector<Home> homes;         // [units]
  size_t ring_bytes = 0;           // at least the largest unit that is streamed in any pass
  int stage_threads = 1;           // that copy slabs which are not pinned
  bool poison = false;             // fill freed slots with 0xff: NaN as a float16, bfloat16 or float32
  FeederHooks hooks;
};

struct FeederCounters {
  uint64_t copied_bytes = 0;      // enqueued into the ring
  uint64_t prefetched_bytes = 0;  // the part of it that no acquire has taken yet
  uint64_t acquired_units = 0;    // streamed units handed to compute
  uint64_t ready_waits = 0;
  uint64_t free_waits = 0;
  uint64_t staged_bytes = 0;   // of the copied bytes, those that were not pinned
  uint64_t dropped_bytes = 0;  // copied for a pass that then needed other units
};

// Which units a pass streams.
enum class Route : uint8_t {
  decode,   // those whose home is `streamed`
  prefill,  // those at home on the CPU too
};

class Feeder {
 public:
  // Uploads resident units, unless the backend reads host memory where it lies. `source` outlives the feeder.
  Feeder(Backend& backend, const SlabSource& source, FeederConfig config);
  // Waits for the copies under way. The compute stream must have run what it was handed.
  ~Feeder();

  // Begins to copy the first units of a pass, of the decode route until begin() says otherwise. Passes use streamed
  // units in ascending order, each once.
  void prefetch();
  // A pass begins. What was copied ahead for the other route and is of no use to this one is dropped.
  void begin(Route route);
  // The unit passes through the ring in this pass.
  bool streams(int unit) const;
  // The address at which kernels enqueued on `compute` from here to release() find the unit's weights.
  const std::byte* acquire(Stream& compute, int unit);
  void release(Stream& compute, int unit);

  // After a pass that was given up: forgets the slots of that pass and begins anew. The compute stream must have run
  // what it was handed.
  void restart();

  const FeederCounters& counters() const { return counters_; }
  size_t ring_bytes() const { return ring_.bytes(); }
  size_t resident_bytes() const;

 private:
  struct Slot {
    Ring::Slot place;
    int unit = 0;
    Event* ready = nullptr;
  };
  void drain();
  const std::vector<int>& order() const { return order_[static_cast<int>(filling_)]; }
  void enqueue_copy(std::byte* destination, int unit);
  // Enqueues copies of the units to come for as long as the ring has room.
  void pump();
  Event& event_of(std::vector<std::unique_ptr<Event>>& events, uint64_t sequence);

  Backend& backend_;
  const SlabSource& source_;
  FeederConfig config_;
  std::vector<std::unique_ptr<Memory>> resident_;
  std::vector<const std::byte*> resident_address_;
  std::vector<int> order_[2];      // of each route, the streamed units in the order of a pass
  Route route_ = Route::decode;    // of the pass that compute is in
  Route filling_ = Route::decode;  // of the pass whose units are copied next
  size_t next_ = 0;                // index into order() of the next copy
  Ring ring_;
  std::unique_ptr<Memory> ring_memory_;
  std::unique_ptr<Stream> copy_;
  std::unique_ptr<Stager> stager_;  // once it is needed
  // Events by slot sequence, reused in turn: more of them than slots that can be live or stale at once.
  std::vector<std::unique_ptr<Event>> ready_;
  std::vector<std::unique_ptr<Event>> free_;
  std::deque<Slot> slots_;  // copied or being copied, oldest first
  FeederCounters counters_;
};

}  // namespace millrace
