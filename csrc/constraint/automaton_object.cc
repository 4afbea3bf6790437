// Objects: which members were seen, which may come, and which must.
#include <algorithm>
#include <bit>

#include "constraint/automaton.h"
#include "constraint/special.h"

namespace millrace::constraint {

namespace {

bool has(std::span<const uint32_t> set, uint32_t bit) {
  return (set[bit / 32] >> (bit % 32) & 1) != 0;
}

}  // namespace

// A byte of a member's name; the closing quote says which member it is.
void Automaton::step_name(const Rule& rule, const Way& way, const Edge& edge, uint8_t byte, Range& range) {
  const ObjectRule& object = object_of(rule);
  if ((edge.target & kName) != 0) {
    const uint32_t member = edge.target & ~kName;
    if (!permitted(object, member, way.seen)) return;
    uint32_t seen = way.seen;
    if (tracks(object, seen)) {
      const std::span<const uint32_t> record = records_[seen];
      const size_t head = kRecordHead + object.words;
      const uint32_t name = record[1];
      record_.assign(record.begin(), record.end());
      record_[1] = 0;
      if (member >= object.members) {
        const auto at = std::lower_bound(record_.begin() + static_cast<ptrdiff_t>(head), record_.end(), name);
        if (at != record_.end() && *at == name) return;
        record_.insert(at, name);
      }
      seen = records_.intern(record_);
    }
    seeds_.push_back({rule.special + kObjectStates + kMemberStates * member + kMemberColon, seen, way.back});
    return;
  }
  if (!alive(object, program_->reach[edge.target], way.seen)) return;
  uint32_t seen = way.seen;
  if (tracks(object, seen)) {
    range.within(byte, byte);
    const std::span<const uint32_t> record = records_[seen];
    record_.assign(record.begin(), record.end());
    const uint32_t pair[2] = {record_[1], byte};
    record_[1] = names_.intern(pair);
    seen = records_.intern(record_);
  }
  seeds_.push_back({edge.target, seen, way.back});
}

uint32_t Automaton::missing(const ObjectRule& object, std::span<const uint32_t> record) const {
  const std::span<const uint32_t> members = record.subspan(kRecordHead, object.words);
  uint32_t count = 0;
  if (object.implications.empty()) {
    for (uint32_t w = 0; w < object.words; w++) count += std::popcount(object.required[w] & ~members[w]);
    return count;
  }
  std::vector<uint32_t> wanted = object.required;
  for (uint32_t w = 0; w < object.words; w++) wanted[w] |= members[w];
  for (bool changed = true; changed;) {
    changed = false;
    for (const ObjectRule::Implication& implication : object.implications) {
      if (!has(wanted, implication.member)) continue;
      for (uint32_t w = 0; w < object.words; w++) {
        changed |= (implication.required[w] & ~wanted[w]) != 0;
        wanted[w] |= implication.required[w];
      }
    }
  }
  for (uint32_t w = 0; w < object.words; w++) count += std::popcount(wanted[w] & ~members[w]);
  return count;
}

bool Automaton::fits(const ObjectRule& object, std::span<const uint32_t> record) const {
  return object.maximum == kUnlimited || uint64_t{record[0]} + missing(object, record) <= object.maximum;
}

bool Automaton::may_close(const ObjectRule& object, uint32_t seen) const {
  const std::span<const uint32_t> record = records_[seen];
  return record[0] >= object.minimum && missing(object, record) == 0;
}

bool Automaton::tracks(const ObjectRule& object, uint32_t seen) const {
  return object.tracks_names && !may_close(object, seen);
}

uint32_t Automaton::with_member(const ObjectRule& object, uint32_t member, const Alternative& alternative,
                                uint32_t seen) {
  const std::span<const uint32_t> before = records_[seen];
  record_.assign(before.begin(), before.end());
  const uint32_t count = record_[0] + 1;
  record_[0] = object.maximum == kUnlimited ? std::min(count, object.minimum) : count;
  for (uint32_t w = 0; w < object.words; w++) record_[kRecordHead + w] |= alternative.sets[w];
  if (member < object.members) record_[kRecordHead + member / 32] |= 1u << (member % 32);
  if (!fits(object, record_)) return kUnknown;
  if (object.tracks_names && record_[0] >= object.minimum && missing(object, record_) == 0) {
    record_.resize(kRecordHead + object.words);  // other names matter no more
  }
  return records_.intern(record_);
}

bool Automaton::permitted(const ObjectRule& object, uint32_t member, uint32_t seen) {
  const std::span<const uint32_t> record = records_[seen];
  if (member < object.members && has(record.subspan(kRecordHead), member)) return false;
  if (object.maximum == kUnlimited) return true;
  if (record[0] >= object.maximum) return false;
  const std::vector<Alternative>& alternatives = object.values[member];
  return std::any_of(alternatives.begin(), alternatives.end(), [&](const Alternative& alternative) {
    scratch_.assign(record.begin(), record.end());
    scratch_[0]++;
    for (uint32_t w = 0; w < object.words; w++) scratch_[kRecordHead + w] |= alternative.sets[w];
    if (member < object.members) scratch_[kRecordHead + member / 32] |= 1u << (member % 32);
    return fits(object, scratch_);
  });
}

bool Automaton::alive(const ObjectRule& object, const NameReach& reach, uint32_t seen) {
  for (uint32_t member = reach.first; member < reach.end; member++) {
    if (permitted(object, member, seen)) return true;
  }
  for (uint32_t other = 0; other < object.others; other++) {
    if ((reach.others >> other & 1) != 0 && permitted(object, object.members + other, seen)) return true;
  }
  return false;
}

bool Automaton::permits_others(const ObjectRule& object, uint32_t seen) {
  for (uint32_t other = 0; other < object.others; other++) {
    if (!permitted(object, object.members + other, seen)) return false;
  }
  return true;
}

bool Automaton::may_add(const Rule& rule, uint32_t seen) {
  const ObjectRule& object = object_of(rule);
  return alive(object, program_->reach[object.names], seen);
}

void Automaton::step_object(const Rule& rule, uint32_t state, const Way& way, uint8_t byte, Range& range) {
  const ObjectRule& object = object_of(rule);
  const auto go = [&](uint32_t to) { seeds_.push_back({rule.special + to, way.seen, way.back}); };
  const auto name = [&] {
    if (is(byte, '"', range) && may_add(rule, way.seen)) seeds_.push_back({object.names, way.seen, way.back});
  };
  const auto close = [&] {
    if (!is(byte, '}', range) || !may_close(object, way.seen)) return;
    for (const Way& back : backs_[way.back]) seeds_.push_back(back);
  };
  const bool flexible = program_->flexible;
  switch (state) {
    case kObjectBegin:
      if (is(byte, '{', range)) go(kObjectOpen);
      return;
    case kObjectOpen:
      if (space(byte, range)) go(flexible ? kObjectOpen : kObjectOpenSpace);
      name();
      close();
      return;
    case kObjectOpenSpace:
      name();
      close();
      return;
    case kObjectAfter:
      if (is(byte, ',', range) && may_add(rule, way.seen)) go(kObjectComma);
      if (space(byte, range)) {
        if (flexible) go(kObjectAfter);
        if (!flexible && may_close(object, way.seen)) go(kObjectCloseSpace);
      }
      close();
      return;
    case kObjectCloseSpace:
      close();
      return;
    case kObjectComma:
      if (space(byte, range)) go(flexible ? kObjectComma : kObjectCommaSpace);
      name();
      return;
    case kObjectCommaSpace:
      name();
      return;
    default:
      break;
  }
  const uint32_t member = (state - kObjectStates) / kMemberStates;
  const uint32_t base = kObjectStates + kMemberStates * member;
  switch ((state - kObjectStates) % kMemberStates) {
    case kMemberColon:
      if (is(byte, ':', range)) go(base + kMemberValue);
      if (flexible && space(byte, range)) go(state);
      return;
    case kMemberValue:
      if (space(byte, range)) go(flexible ? state : base + kMemberValueSpace);
      return;
    default:
      return;
  }
}

}  // namespace millrace::constraint
