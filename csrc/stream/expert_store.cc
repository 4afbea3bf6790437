#include "stream/expert_store.h"

#include <algorithm>
#include <utility>

#include "core/memory.h"
#include "stream/reclaim.h"

namespace millrace {

namespace {

// Empty frames that are on offer at once.
constexpr size_t kMostOffered = 256;
// Where experts must be evicted for them, so many: whatever is on offer finds nothing, which is worth it as far as
// passes choose again what they chose of late. That they do by as much as they find more in frames than even choices
// would: the share of all experts that frames hold.
constexpr int kFewOffers = 2, kSomeOffers = 16, kMostOffers = 192;
constexpr double kEven = 0.02, kOffersByGain = 640;  // what chance makes of a difference; offers for each more
constexpr int kShareOffered = 8;                     // of all frames one of so many at most
static_assert(kMostOffered <= kMostOfferedFrames && kMostOffers <= kMostOfferedFrames);
constexpr double kOfPass = 0.05;  // a pass's part in what was seen of late

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
  frame_of_.resize(static_cast<size_t>(experts), kNone);
  used_in_.resize(frame_of_.size(), 0);
  make_frames(cache_bytes);
}

void ExpertStore::make_frames(size_t bytes) {
  const size_t frames = frame_bytes_ == 0 ? 0 : std::min(bytes / frame_bytes_, frame_of_.size());
  frames_.clear();  // there are none, if there is no room for them
  empty_.clear();
  counters_.frames = 0;
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

// All is read in RAM again: what passes brought, or part of it, is forgotten.
void ExpertStore::restart() {
  std::ranges::fill(frame_of_, kNone);
  for (Frame& frame : frames_) frame = {};
  recency_.clear();
  offered_.clear();
  empty_.clear();
  for (size_t i = frames_.size(); i > 0; i--) empty_.push_back(static_cast<int>(i) - 1);
  there_.clear();
  counters_.used_frames = 0;
  first_ = true;
}

int ExpertStore::unit_of(int expert) const {
  return static_cast<int>(std::upper_bound(firsts_.begin(), firsts_.end(), expert) - firsts_.begin()) - 1;
}

const std::byte* ExpertStore::slab_of(int unit, int expert) const {
  const ExpertUnit& of = units_[static_cast<size_t>(unit)];
  return source_.slab(of.unit) + of.first + static_cast<size_t>(expert) * of.stride;
}

int ExpertStore::offers_wanted() const {
  // Not more than there are experts to take them.
  const int most = std::min(std::max(1, static_cast<int>(frames_.size()) / kShareOffered),
                            static_cast<int>(frame_of_.size() - recency_.size()));
  if (gain_ < kEven) return std::min(most, kFewOffers);
  return std::min({most, kMostOffers, kSomeOffers + static_cast<int>((gain_ - kEven) * kOffersByGain)});
}

int ExpertStore::evictable() const {
  if (recency_.empty()) return kNone;
  const int frame = recency_.front();
  return used_in_[static_cast<size_t>(frames_[static_cast<size_t>(frame)].expert)] == pass_ ? kNone : frame;
}

void ExpertStore::evict(int frame, std::vector<ExpertAddress>& changes) {
  Frame& place = frames_[static_cast<size_t>(frame)];
  const int unit = unit_of(place.expert), number = place.expert - firsts_[static_cast<size_t>(unit)];
  if (evictions_++ != hooks_.skip_evict) {
    changes.push_back({units_[static_cast<size_t>(unit)].unit, number, backend_.mapped(slab_of(unit, number)), true});
  }
  frame_of_[static_cast<size_t>(place.expert)] = kNone;
  recency_.erase(place.place);
  place = {};
}

void ExpertStore::begin(Executor& executor, Stream& compute) {
  changes_.clear();
  offer_.clear();
  const bool anew = std::exchange(first_, false);
  if (anew) {
    for (size_t unit = 0; unit < units_.size(); unit++) {
      for (int e = 0; e < units_[unit].experts; e++) {
        changes_.push_back({units_[unit].unit, e, backend_.mapped(slab_of(static_cast<int>(unit), e)), true});
      }
    }
  }
  const auto offer = [&](int frame) {
    offered_.push_back(frame);
    offer_.push_back(memory_->data() + static_cast<size_t>(frame) * frame_bytes_);
  };
  while (!empty_.empty() && offered_.size() < kMostOffered) {
    offer(empty_.back());
    empty_.pop_back();
  }
  for (int wanted = offers_wanted(); static_cast<int>(offered_.size()) < wanted;) {
    const int frame = evictable();
    if (frame == kNone) break;
    evict(frame, changes_);
    offer(frame);
  }
  counters_.used_frames = recency_.size();
  // An expert's address in RAM before its frame is somebody else's.
  if (!changes_.empty()) executor.set_experts(compute, changes_);
  if (anew || !offer_.empty()) executor.offer_frames(compute, offer_, anew);
  std::vector<bool>& there = there_.emplace_back(frame_of_.size());
  for (size_t e = 0; e < frame_of_.size(); e++) there[e] = frame_of_[e] != kNone;
}

void ExpertStore::used(std::span<const uint16_t> rows, std::span<const int32_t> filled) {
  if (there_.empty()) return;
  pass_++;
  const std::vector<bool> there = std::move(there_.front());
  there_.pop_front();
  for (const int32_t expert : filled) {
    if (offered_.empty()) break;
    const int frame = offered_.front();
    offered_.pop_front();
    frames_[static_cast<size_t>(frame)] = {expert, recency_.insert(recency_.end(), frame)};
    frame_of_[static_cast<size_t>(expert)] = frame;
    counters_.promoted_bytes += units_[static_cast<size_t>(unit_of(expert))].stride;
    for (std::vector<bool>& later : there_) later[static_cast<size_t>(expert)] = true;
  }
  counters_.used_frames = recency_.size();
  uint64_t hits = 0, mapped = 0;
  for (size_t e = 0; e < rows.size() && e < frame_of_.size(); e++) {
    if (rows[e] == 0) continue;
    used_in_[e] = pass_;
    (there[e] ? hits : mapped)++;
    if (frame_of_[e] == kNone) continue;
    Frame& frame = frames_[static_cast<size_t>(frame_of_[e])];
    recency_.splice(recency_.end(), recency_, frame.place);
  }
  counters_.hits += hits;
  counters_.mapped += mapped;
  if (trace_ && hits + mapped > 0)
    trace_->counts("experts", {{"in frames", hits}, {"in RAM", mapped}, {"copied", filled.size()}});
  if (hits + mapped == 0 || !empty_.empty()) return;  // a pass with a prompt; frames that fill tell nothing yet
  const double found = static_cast<double>(hits) / static_cast<double>(hits + mapped);
  const double even = static_cast<double>(frames_.size()) / static_cast<double>(frame_of_.size());
  gain_ += kOfPass * (found - even - gain_);
}

}  // namespace millrace
