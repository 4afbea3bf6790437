// What ways come to without a byte: rules that are called, and what goes on where one has ended.
#include <algorithm>

#include "constraint/automaton.h"
#include "constraint/special.h"
#include "core/error.h"

namespace millrace::constraint {

namespace {

// Ways of one state: a grammar that can be read in more is beyond use.
constexpr size_t kMaxWays = 20'000;

uint64_t hash_of(const Way& way) {
  uint64_t hash = (uint64_t{way.state} << 32 | way.seen) * 0xff51afd7ed558ccd;
  hash = (hash ^ (hash >> 29) ^ way.back) * 0xc4ceb9fe1a85ec53;
  return hash ^ (hash >> 32);
}

}  // namespace

Way Automaton::enter(uint32_t number, uint32_t back) {
  const Rule& rule = program_->rules[number];
  switch (rule.kind) {
    case RuleKind::automaton:
      return {rule.start, 0, back};
    case RuleKind::object:
      return {rule.special + kObjectBegin, first_record_[rule.start], back};
    case RuleKind::array:
      return {rule.special + kArrayBegin, 0, back};
  }
  return {};
}

void Automaton::add(const Way& way) {
  if (2 * (met_.size() + 1) > slots_.size()) {
    slots_.assign(slots_.size() * 2, 0);
    for (size_t i = 0; i < met_.size(); i++) {
      size_t slot = hash_of(met_[i]) & (slots_.size() - 1);
      while (slots_[slot] != 0) slot = (slot + 1) & (slots_.size() - 1);
      slots_[slot] = static_cast<uint32_t>(i + 1);
    }
  }
  size_t slot = hash_of(way) & (slots_.size() - 1);
  for (; slots_[slot] != 0; slot = (slot + 1) & (slots_.size() - 1)) {
    if (met_[slots_[slot] - 1] == way) return;
  }
  if (met_.size() >= kMaxWays) {
    throw Error(code::kConstraintTooLarge, "the constraint lets a text be read in too many ways at once",
                "make it less ambiguous: let alternatives begin differently");
  }
  met_.push_back(way);
  slots_[slot] = static_cast<uint32_t>(met_.size());
  work_.push_back(way);
}

// From seeds_ to out_: all that they come to without a byte.
void Automaton::close() {
  out_.clear();
  met_.clear();
  std::fill(slots_.begin(), slots_.end(), 0);
  pending_.clear();
  work_.clear();
  for (const Way& seed : seeds_) add(seed);
  while (!work_.empty()) {
    while (!work_.empty()) {
      const Way way = work_.back();
      work_.pop_back();
      expand(way);
    }
    // Calls of one rule go on as one.
    calls_.swap(pending_);
    pending_.clear();
    std::sort(calls_.begin(), calls_.end(), [](const Pending& a, const Pending& b) { return a.rule < b.rule; });
    for (size_t i = 0; i < calls_.size();) {
      size_t end = i;
      while (end < calls_.size() && calls_[end].rule == calls_[i].rule) end++;
      uint32_t back = calls_[i].back.back;
      if (end > i + 1 || !calls_[i].tail) {
        group_.clear();
        for (; i < end; i++) {
          if (calls_[i].tail) {
            const std::span<const Way> ways = backs_[calls_[i].back.back];
            group_.insert(group_.end(), ways.begin(), ways.end());
          } else {
            group_.push_back(calls_[i].back);
          }
        }
        std::sort(group_.begin(), group_.end());
        group_.erase(std::unique(group_.begin(), group_.end()), group_.end());
        back = backs_.intern(group_);
      }
      i = end;
      add(enter(calls_[end - 1].rule, back));
    }
    calls_.clear();
  }
  if (slots_.size() > 4096 && met_.size() < 512) slots_.assign(256, 0);
  std::sort(out_.begin(), out_.end());
}

void Automaton::expand(const Way& way) {
  if (way.state == kDone) {
    out_.push_back(way);
    return;
  }
  const Program& program = *program_;
  if (way.state >= program.automaton_states()) {
    expand_special(way);
    return;
  }
  const AutomatonState& state = program.states[way.state];
  const AutomatonState& after = program.states[way.state + 1];
  if (state.edges != after.edges) out_.push_back(way);
  if ((state.flags & kNameState) != 0) return;
  if ((state.flags & kAccepts) != 0) {
    const Rule& rule = program.rules[program.rule_of[way.state]];
    if (way.seen >= rule.minimum || rule.minimum == 0) {
      for (const Way& back : backs_[way.back]) add(back);
    }
  }
  for (uint32_t c = state.calls; c < after.calls; c++) {
    const Call& called = program.calls[c];
    const AutomatonState& next = program.states[called.back];
    const AutomatonState& end = program.states[called.back + 1];
    const bool tail = (next.flags & kAccepts) != 0 && next.edges == end.edges && next.calls == end.calls;
    call(called.rule, {called.back, way.seen, way.back}, tail);
  }
}

void Automaton::expand_special(const Way& way) {
  const Program& program = *program_;
  const Rule& rule = program.rules[program.rule_of[way.state]];
  const uint32_t state = way.state - rule.special;
  out_.push_back(way);
  if (rule.kind == RuleKind::array) {
    if (state == kArrayOpen || state == kArrayOpenSpace || state == kArrayComma || state == kArrayCommaSpace) {
      call_items(rule, program.arrays[rule.start], way);
    }
    return;
  }
  if (state < kObjectStates) return;
  const uint32_t member = (state - kObjectStates) / kMemberStates;
  if ((state - kObjectStates) % kMemberStates == kMemberColon) return;
  const ObjectRule& object = object_of(rule);
  for (const Alternative& alternative : object.values[member]) {
    const uint32_t seen = with_member(object, member, alternative, way.seen);
    if (seen != kUnknown) call(alternative.rule, {rule.special + kObjectAfter, seen, way.back});
  }
}

}  // namespace millrace::constraint
