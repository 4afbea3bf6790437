#pragma once
// Experts on demand: where each expert of a model's mixtures is read. All of them rest in system RAM, pinned and
// mapped, and a device can read each there; those that passes chose of late are in frames of device memory besides.
// Which is which changes, and no result depends on it: an expert is an address.
//
//   compute stream:  | addresses in RAM of evicted experts | their frames are offered | the pass: reads experts in
//                      frames and in RAM; what it reads in RAM it copies into frames that are offered
//   host, later:       reads which experts took frames, and evicts others before the next pass
//
// So a missed expert crosses the link once, and all of it is in the order of one stream: passes before have run when
// an expert is evicted, and its frame is written by none but passes behind. Nothing waits for the host.
#include <cstdint>
#include <deque>
#include <list>
#include <memory>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "stream/slab_source.h"
#include "stream/trace.h"

namespace millrace {

// A unit whose experts are on demand: expert e begins first + e * stride bytes into its slab.
struct ExpertUnit {
  int unit = 0;
  int experts = 0;
  size_t first = 0, stride = 0;
};

// For the tests that prove each step necessary: the nth of a kind is left out.
struct ExpertHooks {
  int64_t skip_evict = -1;  // of an expert's address, before its frame is offered
};

struct ExpertCounters {
  uint64_t hits = 0, mapped = 0;  // experts of passes, read in frames and in RAM
  uint64_t promoted_bytes = 0;    // copied into frames
  uint64_t frames = 0, used_frames = 0;
};

class ExpertStore {
 public:
  // `source` outlives the store; its slabs are pinned already, where the backend needs that.
  ExpertStore(Backend& backend, const SlabSource& source, std::vector<ExpertUnit> units, size_t cache_bytes,
              ExpertHooks hooks = {});
  // The compute stream must have run what it was handed.
  ~ExpertStore() = default;

  // Before a pass: evicts, and offers frames.
  void begin(Executor& executor, Stream& compute);
  // The oldest pass that began and was not told of has run: rows that chose each expert, of all units in order, and
  // what it left in frames (StepOutput::filled).
  void used(std::span<const uint16_t> rows, std::span<const int32_t> filled);
  // After passes that were given up; the compute stream has run what it was handed.
  void restart();
  // Between passes, with the compute stream at rest: another number of frames, all of them empty.
  void set_cache(size_t bytes);

  // What passes found; null: nobody asks.
  void set_trace(Trace* trace) { trace_ = trace; }

  const ExpertCounters& counters() const { return counters_; }
  size_t frame_bytes() const { return frame_bytes_; }
  // Of device memory.
  size_t bytes() const { return memory_ ? memory_->size() : 0; }

 private:
  static constexpr int kNone = -1;
  struct Frame {
    int expert = kNone;
    std::list<int>::iterator place;  // of recency_
  };

  const std::byte* slab_of(int unit, int expert) const;
  int unit_of(int expert) const;  // index into units_
  void evict(int frame, std::vector<ExpertAddress>& changes);
  // The one whose expert was used longest ago; kNone where all were used by the last pass that is known.
  int evictable() const;
  // Frames to be on offer.
  int offers_wanted() const;
  void make_frames(size_t bytes);

  Backend& backend_;
  const SlabSource& source_;
  const std::vector<ExpertUnit> units_;
  const ExpertHooks hooks_;
  std::vector<int> firsts_;    // [units], numbers of their first experts
  std::vector<int> frame_of_;  // [experts], kNone: read in RAM, or on its way into a frame by a pass not told of
  size_t frame_bytes_ = 0;
  std::unique_ptr<Memory> memory_;
  std::vector<Frame> frames_;
  std::list<int> recency_;               // frames with experts, those used longest ago first
  std::vector<int> empty_;               // frames that are neither with an expert nor offered
  std::deque<int> offered_;              // in the order in which they are taken
  std::vector<uint64_t> used_in_;        // [experts], number of the last pass that chose it
  std::deque<std::vector<bool>> there_;  // of passes begun and not told of: experts in frames
  std::vector<std::byte*> offer_;        // of the pass that begins
  std::vector<ExpertAddress> changes_;   // likewise
  double gain_ = 0.05;  // what passes found of late in frames beyond what even choices would have; some at first
  uint64_t pass_ = 0;   // told of
  Trace* trace_ = nullptr;
  bool first_ = true;  // nothing was published yet
  int64_t evictions_ = 0;
  ExpertCounters counters_;
};

}  // namespace millrace
