#include "constraint/automaton.h"

#include <algorithm>
#include <bit>
#include <unordered_map>

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

bool has(std::span<const uint32_t> set, uint32_t bit) {
  return (set[bit / 32] >> (bit % 32) & 1) != 0;
}

constexpr size_t kRecordHead = 2;

}  // namespace

Automaton::Automaton(std::shared_ptr<const Program> program) : program_(std::move(program)) {
  slots_.assign(256, 0);
  forget({});
}

size_t Automaton::bytes() const {
  return state_ways_.bytes() + backs_.bytes() + records_.bytes() + names_.bytes() + states_.capacity() * sizeof(State) +
         tables_ * sizeof(Table);
}

void Automaton::forget(const std::vector<uint32_t*>& kept) {
  const Interned<Way> ways = std::move(state_ways_), backs = std::move(backs_);
  const Interned<uint32_t> records = std::move(records_), names = std::move(names_);
  state_ways_.clear();
  backs_.clear();
  records_.clear();
  names_.clear();
  states_.clear();
  tables_ = 0;
  states_.emplace_back();  // kDead
  state_ways_.intern({});
  const Way done{kDone, 0, 0};
  backs_.intern({&done, 1});
  names_.intern({});  // the name that has not begun
  first_record_.clear();
  for (const ObjectRule& object : program_->objects) {
    record_.assign(kRecordHead + object.words, 0);
    first_record_.push_back(records_.intern(record_));
  }

  // Copies a way with all that it refers to. Depth is that of the text's nesting.
  std::unordered_map<uint32_t, uint32_t> backs_to, names_to;
  const auto copy_name = [&](auto&& self, uint32_t name) -> uint32_t {
    if (name == 0) return 0;
    if (const auto found = names_to.find(name); found != names_to.end()) return found->second;
    const uint32_t pair[2] = {self(self, names[name][0]), names[name][1]};
    return names_to[name] = names_.intern(pair);
  };
  const auto copy_way = [&](auto&& self, const Way& way) -> Way {
    if (way.state == kDone) return way;
    Way out = way;
    const Rule& rule = program_->rules[program_->rule_of[way.state]];
    if (rule.kind == RuleKind::object) {
      const std::span<const uint32_t> from = records[way.seen];
      std::vector<uint32_t> record(from.begin(), from.end());
      record[1] = copy_name(copy_name, record[1]);
      const size_t head = kRecordHead + object_of(rule).words;
      for (size_t i = head; i < record.size(); i++) record[i] = copy_name(copy_name, record[i]);
      std::sort(record.begin() + static_cast<ptrdiff_t>(head), record.end());
      out.seen = records_.intern(record);
    }
    if (const auto found = backs_to.find(way.back); found != backs_to.end()) {
      out.back = found->second;
    } else {
      std::vector<Way> set;
      for (const Way& back : backs[way.back]) set.push_back(self(self, back));
      std::sort(set.begin(), set.end());
      out.back = backs_to[way.back] = backs_.intern(set);
    }
    return out;
  };
  for (uint32_t* state : kept) {
    if (*state == kDead) continue;
    out_.clear();
    for (const Way& way : ways[*state]) out_.push_back(copy_way(copy_way, way));
    std::sort(out_.begin(), out_.end());
    *state = intern_state();
  }
  seeds_.clear();
  seeds_.push_back(enter(program_->start, 0));
  close();
  begin_ = intern_state();
}

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
    if (met_.size() >= kMaxWays) {
      throw Error(code::kConstraintTooLarge, "the constraint lets a text be read in too many ways at once",
                  "make it less ambiguous: let alternatives begin differently");
    }
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

void Automaton::call_items(const Rule& rule, const ArrayRule& array, const Way& way) {
  const uint32_t count = way.seen & 0xffffff;
  const uint32_t bits = way.seen >> 24;
  if (count >= array.maximum) return;
  const uint32_t bound =
      array.maximum != kUnlimited ? array.maximum : std::max(array.minimum, static_cast<uint32_t>(array.places.size()));
  const uint32_t next = std::min(count + 1, bound);
  for (const ArrayRule::Item& item : array.at(count)) {
    const uint32_t now = bits | item.sets;
    const uint32_t left = array.bits & ~now;
    // What is missing must find its place.
    if (array.maximum != kUnlimited && static_cast<uint32_t>(std::popcount(left)) > array.maximum - count - 1) continue;
    bool reachable = true;
    for (uint32_t bit = 0; bit < 8; bit++) {
      if ((left >> bit & 1) != 0 && array.last[bit] <= count + 1 && array.last[bit] != kUnlimited) reachable = false;
    }
    if (reachable) call(item.rule, {rule.special + kArrayAfter, next | now << 24, way.back});
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

uint32_t Automaton::intern_state() {
  if (out_.empty()) return kDead;
  const uint32_t id = state_ways_.intern(out_);
  if (id < states_.size()) return id;
  State& state = states_.emplace_back();
  const Program& program = *program_;
  for (const Way& way : out_) {
    if (way.state == kDone) {
      state.accepts = true;
      state.ended = out_.size() == 1;
      continue;
    }
    if (way.state >= program.automaton_states()) continue;
    const AutomatonState& at = program.states[way.state];
    if (at.run == 0) continue;
    const Rule& rule = program.rules[program.rule_of[way.state]];
    uint32_t length = at.run_length;
    if ((at.flags & kNameState) != 0) {
      if (!permits_others(object_of(rule), way.seen)) continue;
    } else if (rule.maximum != kUnlimited) {
      if (rule.maximum < uint64_t{way.seen} + at.needs) continue;
      length = std::min(length, rule.maximum - way.seen - at.needs);
    }
    // Of several ways the one with more classes counts.
    const int more = std::popcount(at.run) - std::popcount(state.run);
    if (more < 0 || (more == 0 && length <= state.run_length)) continue;
    state.run = at.run;
    state.run_length = length;
    state.runs_alone = out_.size() == 1 && at.run_length == kUnlimited;
  }
  return id;
}

uint32_t Automaton::compute(uint32_t state, uint8_t byte) {
  if (!states_[state].next) {
    states_[state].next = std::make_unique<Table>();
    states_[state].next->fill(state == kDead ? kDead : kUnknown);
    tables_++;
    if (state == kDead) return kDead;
  }
  seeds_.clear();
  Range range;
  for (uint32_t i = 0; i < state_ways_[state].size(); i++) {
    const Way way = state_ways_[state][i];
    step(way, byte, range);
  }
  uint32_t next = kDead;
  if (!seeds_.empty()) {
    close();
    next = intern_state();
  }
  Table& table = *states_[state].next;
  for (unsigned b = range.low; b <= range.high; b++) table[b] = next;
  return next;
}

bool Automaton::is(uint8_t byte, uint8_t wanted, Range& range) {
  if (byte == wanted) {
    range.within(byte, byte);
    return true;
  }
  if (byte < wanted) range.within(0, wanted - 1u);
  if (byte > wanted) range.within(wanted + 1u, 255);
  return false;
}

bool Automaton::space(uint8_t byte, Range& range) const {
  if (is(byte, ' ', range)) return true;
  if (!program_->flexible) return false;
  return is(byte, '\n', range) || is(byte, '\t', range) || is(byte, '\r', range);
}

void Automaton::step(const Way& way, uint8_t byte, Range& range) {
  if (way.state == kDone) return;
  const Program& program = *program_;
  if (way.state < program.automaton_states()) {
    step_automaton(way, byte, range);
    return;
  }
  const Rule& rule = program.rules[program.rule_of[way.state]];
  const uint32_t state = way.state - rule.special;
  if (rule.kind == RuleKind::object) {
    step_object(rule, state, way, byte, range);
  } else {
    step_array(rule, state, way, byte, range);
  }
}

void Automaton::step_automaton(const Way& way, uint8_t byte, Range& range) {
  const Program& program = *program_;
  const Edge* begin = program.edges.data() + program.states[way.state].edges;
  const Edge* end = program.edges.data() + program.states[way.state + 1].edges;
  const Edge* edge = std::upper_bound(begin, end, byte, [](uint8_t b, const Edge& e) { return b < e.low; });
  // The one before may hold the byte; else it lies in the gap between two.
  if (edge == begin || byte > edge[-1].high) {
    range.within(edge == begin ? 0 : edge[-1].high + 1u, edge == end ? 255 : edge->low - 1u);
    return;
  }
  --edge;
  range.within(edge->low, edge->high);
  const Rule& rule = program.rules[program.rule_of[way.state]];
  if (rule.kind == RuleKind::object) {
    const ObjectRule& object = object_of(rule);
    if ((edge->target & kName) != 0) {
      const uint32_t member = edge->target & ~kName;
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
    if (!alive(object, program.reach[edge->target], way.seen)) return;
    uint32_t seen = way.seen;
    if (tracks(object, seen)) {
      range.within(byte, byte);
      const std::span<const uint32_t> record = records_[seen];
      record_.assign(record.begin(), record.end());
      const uint32_t pair[2] = {record_[1], byte};
      record_[1] = names_.intern(pair);
      seen = records_.intern(record_);
    }
    seeds_.push_back({edge->target, seen, way.back});
    return;
  }
  uint32_t count = way.seen;
  if (rule.minimum > 0 || rule.maximum != kUnlimited) {
    if ((edge->flags & kCounts) != 0)
      count = rule.maximum == kUnlimited ? std::min(count + 1, rule.minimum) : count + 1;
    if ((edge->flags & kEnds) != 0) {
      if (count < rule.minimum) return;
      count = rule.minimum;  // all that may end are one
    } else if (rule.maximum != kUnlimited && uint64_t{count} + program.states[edge->target].needs > rule.maximum) {
      return;
    }
  }
  seeds_.push_back({edge->target, count, way.back});
}

// ---- objects

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

void Automaton::step_array(const Rule& rule, uint32_t state, const Way& way, uint8_t byte, Range& range) {
  const ArrayRule& array = program_->arrays[rule.start];
  const uint32_t count = way.seen & 0xffffff;
  const uint32_t bits = way.seen >> 24;
  const auto go = [&](uint32_t to) { seeds_.push_back({rule.special + to, way.seen, way.back}); };
  const bool may_close = count >= array.minimum && (array.bits & ~bits) == 0;
  const auto close = [&] {
    if (!is(byte, ']', range) || !may_close) return;
    for (const Way& back : backs_[way.back]) seeds_.push_back(back);
  };
  const bool more = count < array.maximum && !array.at(count).empty();
  const bool flexible = program_->flexible;
  switch (state) {
    case kArrayBegin:
      if (is(byte, '[', range)) go(kArrayOpen);
      return;
    case kArrayOpen:
      if (space(byte, range)) go(flexible ? kArrayOpen : kArrayOpenSpace);
      close();
      return;
    case kArrayOpenSpace:
      close();
      return;
    case kArrayAfter:
      if (is(byte, ',', range) && more) go(kArrayComma);
      if (space(byte, range)) {
        if (flexible) go(kArrayAfter);
        if (!flexible && may_close) go(kArrayCloseSpace);
      }
      close();
      return;
    case kArrayCloseSpace:
      close();
      return;
    case kArrayComma:
      if (space(byte, range)) go(flexible ? kArrayComma : kArrayCommaSpace);
      return;
    default:
      return;
  }
}

}  // namespace millrace::constraint
