#include "constraint/program.h"

#include <algorithm>

#include "constraint/special.h"
#include "core/error.h"

namespace millrace::constraint {

namespace {

[[noreturn]] void refuse() {
  throw Error(code::kInvalidArgument, "native call: a constraint's rules are damaged",
              "call through the package's own API");
}

class Reader {
 public:
  explicit Reader(std::span<const uint32_t> words) : words_(words) {}
  uint32_t next() {
    if (at_ >= words_.size()) refuse();
    return words_[at_++];
  }
  // How many of something that takes so many words each follow.
  uint32_t count(size_t words) {
    const uint32_t value = next();
    check(value, words);
    return value;
  }
  void check(uint64_t value, size_t words) const {
    if (value * words > words_.size() - at_) refuse();
  }
  std::vector<uint32_t> take(uint32_t count) {
    check(count, 1);
    std::vector<uint32_t> out(words_.begin() + static_cast<ptrdiff_t>(at_),
                              words_.begin() + static_cast<ptrdiff_t>(at_ + count));
    at_ += count;
    return out;
  }
  size_t at() const { return at_; }
  void seek(size_t at) {
    if (at > words_.size()) refuse();
    at_ = at;
  }

 private:
  std::span<const uint32_t> words_;
  size_t at_ = 0;
};

}  // namespace

Program::Program(std::span<const uint32_t> words) : bytes(words.size() * sizeof(uint32_t) * 2) {
  Reader in(words);
  if (in.next() != kMagic) refuse();
  flexible = (in.next() & 1) != 0;
  start = in.next();
  const uint32_t rule_count = in.next(), state_count = in.next(), edge_count = in.next(), call_count = in.next();
  const uint32_t extra = in.next();
  in.check(uint64_t{rule_count} * 4 + uint64_t{state_count} * 6 + uint64_t{edge_count} * 2 + uint64_t{call_count} * 2 +
               extra,
           1);
  if (start >= rule_count || rule_count > 0x1000000 || state_count > 0x1000000) refuse();
  rules.resize(rule_count);
  for (Rule& rule : rules) {
    const uint32_t kind = in.next();
    if (kind > 2) refuse();
    rule.kind = static_cast<RuleKind>(kind);
    rule.start = in.next();
    rule.minimum = in.next();
    rule.maximum = in.next();
    if (rule.kind == RuleKind::automaton && rule.start >= state_count) refuse();
  }
  states.resize(state_count + 1);
  for (uint32_t i = 0; i < state_count; i++) {
    states[i].edges = in.next();
    states[i].calls = in.next();
    states[i].flags = in.next();
    states[i].needs = in.next();
    states[i].run = in.next() & ~kBroken;
    states[i].run_length = in.next();
    if (states[i].edges > edge_count || states[i].calls > call_count) refuse();
    if (i > 0 && (states[i].edges < states[i - 1].edges || states[i].calls < states[i - 1].calls)) refuse();
  }
  states[state_count].edges = edge_count;
  states[state_count].calls = call_count;
  edges.resize(edge_count);
  for (Edge& edge : edges) {
    const uint32_t range = in.next();
    edge.low = static_cast<uint8_t>(range & 0xff);
    edge.high = static_cast<uint8_t>(range >> 8 & 0xff);
    edge.flags = static_cast<uint8_t>(range >> 16 & 0xff);
    edge.target = in.next();
    if ((edge.target & kName) == 0 && edge.target >= state_count) refuse();
  }
  calls.resize(call_count);
  for (Call& call : calls) {
    call.rule = in.next();
    call.back = in.next();
    if (call.rule >= rule_count || call.back >= state_count) refuse();
  }
  const size_t words_begin = in.at();

  rule_of.assign(state_count, UINT32_MAX);
  uint32_t special = state_count;
  const auto rule_number = [&] {
    const uint32_t rule = in.next();
    if (rule >= rule_count) refuse();
    return rule;
  };
  for (uint32_t r = 0; r < rule_count; r++) {
    Rule& rule = rules[r];
    if (rule.kind == RuleKind::automaton) continue;
    in.seek(words_begin + rule.start);
    rule.special = special;
    if (rule.kind == RuleKind::object) {
      ObjectRule object;
      object.names = in.next();
      object.members = in.next();
      object.words = in.next();
      object.tracks_names = (in.next() & 1) != 0;
      object.minimum = in.next();
      object.maximum = in.next();
      if (object.names >= state_count || object.members > uint64_t{object.words} * 32 || object.words > 4096) refuse();
      object.required = in.take(object.words);
      object.implications.resize(in.count(1 + object.words));
      for (ObjectRule::Implication& implication : object.implications) {
        implication.member = in.next();
        if (implication.member >= object.members) refuse();
        implication.required = in.take(object.words);
      }
      object.others = in.next();
      if (object.others > 32) refuse();
      in.check(uint64_t{object.members} + object.others, 1);
      object.values.resize(object.members + object.others);
      for (std::vector<Alternative>& alternatives : object.values) {
        alternatives.resize(in.count(1 + object.words));
        for (Alternative& alternative : alternatives) {
          alternative.rule = rule_number();
          alternative.sets = in.take(object.words);
        }
      }
      special += kObjectStates + kMemberStates * static_cast<uint32_t>(object.values.size());
      rule.start = static_cast<uint32_t>(objects.size());
      objects.push_back(std::move(object));
    } else {
      ArrayRule array;
      const uint32_t places = in.next();
      array.has_rest = in.next() != 0;
      array.bits = in.next();
      array.minimum = in.next();
      array.maximum = in.next();
      if (array.bits > 0xff) refuse();
      in.check(places, 1);
      array.places.resize(places);
      const auto items = [&](std::vector<ArrayRule::Item>& out) {
        out.resize(in.count(2));
        for (ArrayRule::Item& item : out) {
          item.rule = rule_number();
          item.sets = in.next();
        }
      };
      for (auto& place : array.places) items(place);
      if (array.has_rest) items(array.rest);
      array.last.assign(8, 0);
      for (uint32_t bit = 0; bit < 8; bit++) {
        const auto sets = [bit](const std::vector<ArrayRule::Item>& list) {
          return std::any_of(list.begin(), list.end(), [bit](const auto& item) { return (item.sets >> bit & 1) != 0; });
        };
        for (uint32_t place = 0; place < places; place++) {
          if (sets(array.places[place])) array.last[bit] = place + 1;
        }
        if (sets(array.rest)) array.last[bit] = kUnlimited;
      }
      special += kArrayStates;
      rule.start = static_cast<uint32_t>(arrays.size());
      arrays.push_back(std::move(array));
    }
    rule_of.resize(special, r);
  }
  if (special > kName - 1) refuse();

  // Whose a state is: what its rule's first leads to.
  std::vector<uint32_t> open;
  const auto claim = [&](uint32_t state, uint32_t rule) {
    if (rule_of[state] != UINT32_MAX) {
      if (rule_of[state] != rule) refuse();
      return;
    }
    rule_of[state] = rule;
    open.push_back(state);
  };
  for (uint32_t r = 0; r < rule_count; r++) {
    const Rule& rule = rules[r];
    if (rule.kind == RuleKind::array) continue;
    const bool object = rule.kind == RuleKind::object;
    const uint32_t names = object ? static_cast<uint32_t>(objects[rule.start].values.size()) : 0;
    claim(object ? objects[rule.start].names : rule.start, r);
    while (!open.empty()) {
      const uint32_t state = open.back();
      open.pop_back();
      for (uint32_t e = states[state].edges; e < states[state + 1].edges; e++) {
        const uint32_t target = edges[e].target;
        if ((target & kName) == 0) {
          claim(target, r);
        } else if ((target & ~kName) >= names) {
          refuse();
        }
      }
      if (object && states[state].calls != states[state + 1].calls) refuse();
      for (uint32_t c = states[state].calls; c < states[state + 1].calls; c++) claim(calls[c].back, r);
    }
  }
  reach.resize(state_count);
  in.seek(words_begin + extra);
  for (uint32_t i = 0; i < state_count; i++) {
    if ((states[i].flags & kNameState) == 0) continue;
    const uint32_t range = in.next();
    reach[i] = {range & 0xffff, range >> 16, in.next()};
    if (rule_of[i] == UINT32_MAX) continue;
    const Rule& rule = rules[rule_of[i]];
    if (rule.kind != RuleKind::object || reach[i].end > objects[rule.start].members) refuse();
  }
}

}  // namespace millrace::constraint
