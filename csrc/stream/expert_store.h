#pragma once
// Experts on demand: where each expert of a model's mixtures is read. All of them rest in system RAM, pinned and
// mapped, and a device can read each there; those that passes chose of late are copied into frames of device memory
// besides. Which is which changes between passes, and no result depends on it: an expert is an address.
//
//   compute stream:  | publish addresses | record `published` | the pass (reads frames and mapped memory)
//   copy stream:                                   wait `published` | copy expert -> frame given up above | record
//   ready host:            sees `ready` -> publishes the frame's address before the next pass
//
// A frame is given up by publishing its expert's address in RAM; passes before that may still read it, so its next copy
// waits for the point in the compute stream where they have run. An address in VRAM is published once its copy has
// run. Nothing blocks the host, and a pass waits for nothing.
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

// For the tests that prove each wait necessary: the nth of a kind is left out.
struct ExpertHooks {
  int64_t skip_free_wait = -1;   // before a frame that was given up is written anew
  int64_t skip_ready_wait = -1;  // before a frame's address is published: it is at once
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
  // Waits for the copies under way. The compute stream must have run what it was handed.
  ~ExpertStore();

  // Before a pass: publishes what has changed, and begins copies into frames.
  void begin(Executor& executor, Stream& compute);
  // The oldest pass that began and was not told of has run: rows that chose each expert, of all units in order.
  void used(std::span<const uint16_t> rows);
  // After passes that were given up; the compute stream has run what it was handed.
  void restart();
  // Between passes, with the compute stream at rest: another number of frames, all of them empty.
  void set_cache(size_t bytes);

  // What copies take, and what passes found; null: nobody asks. names: of all units of the model.
  void set_trace(Trace* trace, std::vector<std::string> names);

  const ExpertCounters& counters() const { return counters_; }
  size_t frame_bytes() const { return frame_bytes_; }
  // Of device memory.
  size_t bytes() const { return memory_ ? memory_->size() : 0; }

 private:
  static constexpr int kNone = -1;
  struct Expert {
    int frame = kNone;    // that has it, or is to have it
    bool in_use = false;  // its address is the frame's
    bool missed = false;  // waits to be copied
  };
  struct Frame {
    int expert = kNone;
    std::list<int>::iterator place;  // of recency_
  };
  struct Copy {
    int frame = 0;
    std::unique_ptr<Event> ready;
  };

  int number_of(int expert) const;  // within its unit
  const std::byte* slab_of(int expert) const;
  const ExpertUnit& unit_of(int expert) const;
  // Null: where it lies in RAM.
  void publish(int expert, const std::byte* frame);
  void forget_changes();
  // A frame for an expert that was missed: an empty one, or the one whose expert was used longest ago; kNone where all
  // were used by the last pass that is known, or by none since they came.
  int take_frame();
  // Frames that may be given up before a pass.
  int turns_at_most() const;
  void make_frames(size_t bytes);

  Backend& backend_;
  const SlabSource& source_;
  const std::vector<ExpertUnit> units_;
  const ExpertHooks hooks_;
  std::vector<int> firsts_;  // [units], numbers of their first experts
  std::vector<Expert> experts_;
  size_t frame_bytes_ = 0;
  std::unique_ptr<Memory> memory_;
  std::vector<Frame> frames_;
  std::list<int> recency_;         // frames in use, those used longest ago first
  std::vector<int> empty_;         // frames without an expert
  std::vector<uint64_t> used_in_;  // [experts], number of the last pass that chose it
  std::deque<int> missed_;         // experts to be copied, the latest first
  std::deque<Copy> copies_;        // under way, oldest first
  std::vector<std::unique_ptr<Event>> spare_events_;
  std::vector<ExpertAddress> changes_;   // since the last pass began, one an expert
  std::vector<int> changed_;             // the experts of them
  std::vector<int> change_of_;           // [experts]: in changes_; kNone
  std::deque<std::vector<bool>> there_;  // of passes begun and not told of: experts in frames
  std::unique_ptr<Stream> copy_;
  std::unique_ptr<Event> published_;
  double gain_ = 0.05;  // what passes found of late in frames beyond what even choices would have; some at first
  uint64_t pass_ = 0;   // told of
  Trace* trace_ = nullptr;
  std::vector<std::string> names_;  // of units, for it
  bool first_ = true;               // nothing was published yet
  int64_t free_waits_ = 0, ready_waits_ = 0;
  ExpertCounters counters_;
};

}  // namespace millrace
