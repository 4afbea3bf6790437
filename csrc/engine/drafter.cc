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

double PassCosts::of(int rows) const {
  if (by_rows_.empty()) return 1;
  return by_rows_[std::min<size_t>(rows, by_rows_.size()) - 1];
}

int PassCosts::worthwhile(int rows, std::span<const double> gains) const {
  if (gains.empty()) return 0;
  double tokens = rows, best = tokens / of(rows);
  int count = 0;
  for (size_t i = 0; i < gains.size(); i++) {
    tokens += gains[i];
    const double rate = tokens / of(rows + static_cast<int>(i) + 1);
    if (rate > best) best = rate, count = static_cast<int>(i) + 1;
  }
  return count;
}

}  // namespace millrace
