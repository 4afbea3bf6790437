#include "constraint/automaton.h"

#include <algorithm>
#include <bit>
#include <unordered_map>

namespace millrace::constraint {

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
    step_name(rule, way, *edge, byte, range);
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

}  // namespace millrace::constraint
