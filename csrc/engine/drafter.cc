#include "engine/drafter.h"

#include <algorithm>
#include <bit>

namespace millrace {

namespace {

// FNV-1a over whole tokens, mixed at the end.
uint64_t hash_of(std::span<const int32_t> run) {
  uint64_t hash = 0xcbf29ce484222325ull;
  for (const int32_t token : run) hash = (hash ^ static_cast<uint32_t>(token)) * 0x100000001b3ull;
  return hash ^ hash >> 32;
}

}  // namespace

void NgramDrafter::learn(std::span<const int32_t> tokens) {
  const int count = static_cast<int>(tokens.size());
  // As many places as runs, or more. Growing learns all anew, which as many tokens have paid for.
  if (places_[0].size() < tokens.size()) {
    for (auto& places : places_) places.assign(std::bit_ceil(std::max<size_t>(256, 2 * tokens.size())), 0);
    learnt_ = 0;
  }
  // The run that ends with the last token has no continuation yet.
  for (; learnt_ < count - 1; learnt_++) {
    for (size_t l = 0; l < kLengths.size(); l++) {
      const int length = kLengths[l];
      if (learnt_ + 1 < length) continue;
      auto& places = places_[l];
      places[hash_of(tokens.subspan(learnt_ + 1 - length, length)) & (places.size() - 1)] = learnt_ + 1;
    }
  }
}

void NgramDrafter::draft(std::span<const int32_t> tokens, int count, std::vector<int32_t>& drafts) const {
  const int size = static_cast<int>(tokens.size());
  for (size_t l = 0; l < kLengths.size(); l++) {
    const int length = kLengths[l];
    if (size <= length || places_[l].empty()) continue;
    const std::span<const int32_t> last = tokens.last(length);
    const int place = places_[l][hash_of(last) & (places_[l].size() - 1)];
    if (place == 0 || !std::ranges::equal(tokens.subspan(place - length, length), last)) continue;
    const size_t before = drafts.size();
    for (int i = 0; i < count; i++) {
      const int at = place + i;
      drafts.push_back(at < size ? tokens[at] : drafts[before + at - size]);
    }
    return;
  }
}

void Acceptance::take(int drafted, int accepted) {
  if (drafted == 0) return;
  // What was seen some thirty drafts ago counts little.
  constexpr double kKept = 0.97;
  for (int i = 0; i < std::min(accepted + 1, drafted); i++) right_ *= kKept, wrong_ *= kKept;
  right_ += accepted;
  if (accepted < drafted) wrong_ += 1;
}

void PassCosts::see(int rows, double seconds) {
  const size_t index = static_cast<size_t>(rows) - 1;
  if (rows < 1 || index >= seen_.size()) return;
  Seen& seen = seen_[index];
  // The first pass of a shape pages in, or captures a graph, and some of the next ones may: of these the fastest
  // counts. A later one may meet anything, once.
  constexpr int kFirst = 4;
  constexpr double kMost = 1.5, kShare = 0.1;
  const double ratio = seconds / predicted_[index];
  seen.passes++;
  if (seen.passes == 2) seen.ratio = ratio;
  if (seen.passes > 2 && seen.passes <= kFirst) seen.ratio = std::min(seen.ratio, ratio);
  if (seen.passes > kFirst) seen.ratio += kShare * (std::min(ratio, kMost * seen.ratio) - seen.ratio);
  if (!seen.counts()) return;
  // What was not seen for long is as far off as what is seen now: or a machine that was busy once would be so for ever.
  constexpr double kForgotten = 0.005;
  for (Seen& other : seen_) other.ratio += kForgotten * (seen.ratio - other.ratio);
  set_costs();
}

// Between numbers of rows that were seen the ratio is a straight line, beyond them the nearest.
void PassCosts::set_costs() {
  const size_t count = seen_.size();
  size_t below = count;  // none
  for (size_t at = 0; at < count;) {
    size_t above = at;
    while (above < count && !seen_[above].counts()) above++;
    const Seen& low = seen_[below == count ? above : below];
    const Seen& high = seen_[above == count ? below : above];
    for (; at < count && at <= above; at++) {
      const bool between = below < count && above < count;
      const double share = between ? static_cast<double>(at - below) / static_cast<double>(above - below) : 0;
      costs_[at] = predicted_[at] * (low.ratio + share * (high.ratio - low.ratio));
    }
    below = above;
  }
  // No pass takes longer than one of more rows.
  for (size_t at = count - 1; at > 0; at--) costs_[at - 1] = std::min(costs_[at - 1], costs_[at]);
}

double PassCosts::of(int rows) const {
  return costs_.empty() ? 1 : costs_[std::min<size_t>(rows, costs_.size()) - 1];
}

int PassCosts::worthwhile(int rows, std::span<const double> gains) const {
  if (gains.empty()) return 0;
  // By less than this nothing is won for certain.
  constexpr double kLeastGain = 1.01;
  double tokens = rows, best = kLeastGain * tokens / of(rows);
  int count = 0;
  for (size_t i = 0; i < gains.size(); i++) {
    tokens += gains[i];
    const double rate = tokens / of(rows + static_cast<int>(i) + 1);
    if (rate > best) best = rate, count = static_cast<int>(i) + 1;
  }
  return count;
}

}  // namespace millrace
