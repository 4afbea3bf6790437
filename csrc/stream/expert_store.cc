#include "stream/expert_store.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "core/memory.h"
#include "stream/reclaim.h"

namespace millrace {

namespace {

// Copies under way at most: some milliseconds of the link, so that what passes chose last comes first.
constexpr int kMostCopies = 128;
// Where frames must be given up for it, so many a pass: copies take the link from reads of what was missed, and are
// worth it where passes choose again what they chose of late. That they do by as much as they find more in frames than
// even choices would: the share of all experts that frames hold. (Turns by half of that found 68 % of choices of which
// a cache that takes all that is missed finds 90: what was missed and not copied is chosen again as if it were there.)
constexpr int kFewTurns = 2, kSomeTurns = 8, kMostTurns = 96;
constexpr double kEven = 0.02, kTurnsByGain = 320;  // what chance makes of a difference; turns for each more
constexpr double kOfPass = 0.05;                    // a pass's part in what was seen of late

}  // namespace

ExpertStore::ExpertStore(Backend& backend, const SlabSource& source, std::vector<ExpertUnit> units, size_t cache_bytes,
                         ExpertHooks hooks)
    : backend_(backend), source_(source), units_(std::move(units)), hooks_(hooks) {
  int experts = 0;
  for (const ExpertUnit& unit : units_) {
    firsts_.push_back(experts);
    experts += unit.experts;
    frame_bytes_ = std::max(frame_bytes_, round_up(unit.stride, 256));
  }
  experts_.resize(static_cast<size_t>(experts));
  used_in_.resize(experts_.size(), 0);
  change_of_.resize(experts_.size(), kNone);
  copy_ = backend_.create_stream();
  published_ = backend_.create_event();
  make_frames(cache_bytes);
}

ExpertStore::~ExpertStore() {
  try {
    if (copy_) copy_->synchronize();
  } catch (const Error&) {
    // A device that is lost copies no more.
  }
}

void ExpertStore::make_frames(size_t bytes) {
  const size_t frames = frame_bytes_ == 0 ? 0 : std::min(bytes / frame_bytes_, experts_.size());
  frames_.clear();  // there are none, if there is no room for them
  recency_.clear();
  empty_.clear();
  counters_.frames = counters_.used_frames = 0;
  if (memory_) reclaim(std::move(memory_));
  if (frames == 0) return;
  memory_ = allocate_after_reclaim(backend_, frames * frame_bytes_, "the cache of experts");
  frames_.assign(frames, {});
  for (size_t i = frames; i > 0; i--) empty_.push_back(static_cast<int>(i) - 1);
  counters_.frames = frames;
}

void ExpertStore::set_cache(size_t bytes) {
  restart();
  make_frames(bytes);
}

// All is read in RAM again: what copies brought, or part of it, is forgotten.
void ExpertStore::restart() {
  try {
    copy_->synchronize();
  } catch (const Error&) {
    // A device that is lost copies no more; of what failed otherwise nothing is kept.
  }
  for (Expert& expert : experts_) expert = {};
  for (Frame& frame : frames_) frame = {};
  recency_.clear();
  empty_.clear();
  for (size_t i = frames_.size(); i > 0; i--) empty_.push_back(static_cast<int>(i) - 1);
  for (Copy& copy : copies_) spare_events_.push_back(std::move(copy.ready));
  copies_.clear();
  missed_.clear();
  forget_changes();
  there_.clear();
  counters_.used_frames = 0;
  first_ = true;
}

const ExpertUnit& ExpertStore::unit_of(int expert) const {
  const auto after = std::upper_bound(firsts_.begin(), firsts_.end(), expert);
  return units_[static_cast<size_t>(after - firsts_.begin()) - 1];
}

int ExpertStore::number_of(int expert) const {
  return expert - firsts_[static_cast<size_t>(&unit_of(expert) - units_.data())];
}

const std::byte* ExpertStore::slab_of(int expert) const {
  const ExpertUnit& unit = unit_of(expert);
  return source_.slab(unit.unit) + unit.first + static_cast<size_t>(number_of(expert)) * unit.stride;
}

void ExpertStore::set_trace(Trace* trace, std::vector<std::string> names) {
  if (trace != nullptr) {
    copy_->synchronize();
    trace->attach(Trace::experts, backend_, *copy_);
  }
  trace_ = trace;
  names_ = std::move(names);
}

// One change an expert: a frame that has just come into use may be given up at once.
void ExpertStore::publish(int expert, const std::byte* frame) {
  const std::byte* address = frame != nullptr ? frame : backend_.mapped(slab_of(expert));
  int& change = change_of_[static_cast<size_t>(expert)];
  if (change == kNone) {
    change = static_cast<int>(changes_.size());
    changes_.push_back({unit_of(expert).unit, number_of(expert), address, frame == nullptr});
    changed_.push_back(expert);
  } else {
    changes_[static_cast<size_t>(change)].address = address;
    changes_[static_cast<size_t>(change)].in_ram = frame == nullptr;
  }
}

void ExpertStore::forget_changes() {
  for (const int expert : changed_) change_of_[static_cast<size_t>(expert)] = kNone;
  changed_.clear();
  changes_.clear();
}

int ExpertStore::turns_at_most() const {
  if (gain_ < kEven) return kFewTurns;
  return std::min(kMostTurns, kSomeTurns + static_cast<int>((gain_ - kEven) * kTurnsByGain));
}

int ExpertStore::take_frame() {
  if (!empty_.empty()) {
    const int frame = empty_.back();
    empty_.pop_back();
    return frame;
  }
  for (const int frame : recency_) {
    Expert& old = experts_[static_cast<size_t>(frames_[static_cast<size_t>(frame)].expert)];
    if (!old.in_use) continue;  // on its way there
    if (used_in_[static_cast<size_t>(frames_[static_cast<size_t>(frame)].expert)] == pass_) return kNone;
    return frame;
  }
  return kNone;
}

void ExpertStore::begin(Executor& executor, Stream& compute) {
  if (first_) {
    first_ = false;
    for (size_t e = 0; e < experts_.size(); e++) {
      const auto expert = static_cast<int>(e);
      publish(expert, nullptr);
    }
  }
  // In the order in which they were begun: an event that is not done holds back those behind it, which it precedes.
  while (!copies_.empty()) {
    Copy& copy = copies_.front();
    if (!copy.ready->done() && ready_waits_ != hooks_.skip_ready_wait) break;
    ready_waits_++;
    Expert& expert = experts_[static_cast<size_t>(frames_[static_cast<size_t>(copy.frame)].expert)];
    expert.in_use = true;
    publish(frames_[static_cast<size_t>(copy.frame)].expert,
            memory_->data() + static_cast<size_t>(copy.frame) * frame_bytes_);
    spare_events_.push_back(std::move(copy.ready));
    copies_.pop_front();
  }
  struct Planned {
    int expert, frame;
    bool given_up;
  };
  std::vector<Planned> planned;
  int turns = 0;
  const int most_turns = turns_at_most();
  while (!missed_.empty() && static_cast<int>(copies_.size() + planned.size()) < kMostCopies) {
    const bool full = empty_.empty();
    if (full && turns == most_turns) break;
    const int frame = take_frame();
    if (frame == kNone) break;
    const int expert = missed_.front();
    missed_.pop_front();
    Frame& place = frames_[static_cast<size_t>(frame)];
    if (full) {
      turns++;
      Expert& old = experts_[static_cast<size_t>(place.expert)];
      publish(place.expert, nullptr);
      old = {};
      recency_.erase(place.place);
    } else {
      counters_.used_frames++;
    }
    place.expert = expert;
    place.place = recency_.insert(recency_.end(), frame);
    experts_[static_cast<size_t>(expert)] = {frame, false, false};
    planned.push_back({expert, frame, full});
  }
  // What found no frame may be missed again.
  for (const int expert : missed_) experts_[static_cast<size_t>(expert)].missed = false;
  missed_.clear();

  if (!changes_.empty()) executor.set_experts(compute, changes_);
  forget_changes();
  if (!planned.empty()) {
    compute.record(*published_);
    bool waits = false;
    for (const Planned& one : planned) waits = waits || one.given_up;
    if (waits && free_waits_++ != hooks_.skip_free_wait) copy_->wait(*published_);
    for (const Planned& one : planned) {
      const ExpertUnit& unit = unit_of(one.expert);
      const size_t bytes = unit.stride;
      if (trace_) {
        trace_->begin(Trace::experts,
                      names_[static_cast<size_t>(unit.unit)] + " expert " + std::to_string(number_of(one.expert)));
      }
      copy_->copy(memory_->data() + static_cast<size_t>(one.frame) * frame_bytes_, slab_of(one.expert), bytes);
      std::unique_ptr<Event> ready;
      if (spare_events_.empty()) {
        ready = backend_.create_event();
      } else {
        ready = std::move(spare_events_.back());
        spare_events_.pop_back();
      }
      copy_->record(*ready);
      if (trace_) trace_->end(Trace::experts);
      copies_.push_back({one.frame, std::move(ready)});
      counters_.promoted_bytes += bytes;
    }
  }
  std::vector<bool>& there = there_.emplace_back(experts_.size());
  for (size_t e = 0; e < experts_.size(); e++) there[e] = experts_[e].in_use;
}

void ExpertStore::used(std::span<const uint16_t> rows) {
  if (there_.empty()) return;
  pass_++;
  const std::vector<bool> there = std::move(there_.front());
  there_.pop_front();
  uint64_t hits = 0, mapped = 0;
  for (size_t e = 0; e < rows.size() && e < experts_.size(); e++) {
    if (rows[e] == 0) continue;
    used_in_[e] = pass_;
    (there[e] ? hits : mapped)++;
    Expert& expert = experts_[e];
    if (expert.frame != kNone) {
      Frame& frame = frames_[static_cast<size_t>(expert.frame)];
      recency_.splice(recency_.end(), recency_, frame.place);
    } else if (!expert.missed && !frames_.empty()) {
      expert.missed = true;
      missed_.push_front(static_cast<int>(e));
    }
  }
  counters_.hits += hits;
  counters_.mapped += mapped;
  if (trace_ && hits + mapped > 0) trace_->counts("experts", {{"in frames", hits}, {"in RAM", mapped}});
  if (hits + mapped == 0 || !empty_.empty()) return;  // a pass with a prompt; frames that fill tell nothing yet
  const double found = static_cast<double>(hits) / static_cast<double>(hits + mapped);
  const double even = static_cast<double>(frames_.size()) / static_cast<double>(experts_.size());
  gain_ += kOfPass * (found - even - gain_);
}

}  // namespace millrace
