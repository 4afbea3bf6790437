#pragma once
// Constraints as tests write them: rules as lib/constraint/rules.ts would, and small tables of tokens.
#include <array>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "constraint/matcher.h"

namespace rules {

using namespace millrace::constraint;

struct State {
  struct Arc {
    uint8_t low, high;
    uint32_t flags, target;  // the target within its own rule, or kName and a member
  };
  std::vector<Arc> edges = {};
  std::vector<std::pair<uint32_t, uint32_t>> calls = {};  // rule, state of this one to go on in
  bool accepts = false;
  uint32_t needs = 0;
  Classes run = 0;
  uint32_t run_length = 0;
  std::optional<NameReach> reach = {};
};

struct Object {
  std::vector<State> names;
  uint32_t members = 0;
  bool tracks = false;
  uint32_t minimum = 0, maximum = kUnlimited;
  uint32_t required = 0;
  uint32_t others = 0;
  std::vector<std::vector<uint32_t>> values;  // of each member and kind of other names, its rules
};

struct Array {
  std::vector<std::vector<std::pair<uint32_t, uint32_t>>> places;  // rule, bits that it sets
  std::optional<std::vector<std::pair<uint32_t, uint32_t>>> rest = {};
  uint32_t bits = 0, minimum = 0, maximum = kUnlimited;
};

class Writer {
 public:
  uint32_t automaton(const std::vector<State>& states, uint32_t minimum = 0, uint32_t maximum = kUnlimited) {
    rules_.push_back({0, add(states), minimum, maximum});
    return static_cast<uint32_t>(rules_.size() - 1);
  }
  uint32_t literal(const std::string& text) { return choice({text}); }
  // Of these texts: a trie.
  uint32_t choice(const std::vector<std::string>& texts) {
    std::vector<State> states(1);
    for (const std::string& text : texts) {
      uint32_t at = 0;
      for (const char c : text) {
        const auto byte = static_cast<uint8_t>(c);
        auto arc = states[at].edges.begin();
        while (arc != states[at].edges.end() && arc->low < byte) arc++;
        if (arc == states[at].edges.end() || arc->low != byte) {
          const auto next = static_cast<uint32_t>(states.size());
          states[at].edges.insert(arc, {byte, byte, 0, next});
          states.emplace_back();
          at = next;
        } else {
          at = arc->target;
        }
      }
      states[at].accepts = true;
    }
    return automaton(states);
  }
  uint32_t object(const Object& object) {
    const uint32_t names = add(object.names);
    rules_.push_back({1, static_cast<uint32_t>(words_.size()), 0, kUnlimited});
    push({names, object.members, 1, object.tracks ? 1u : 0u, object.minimum, object.maximum, object.required, 0,
          object.others});
    for (const std::vector<uint32_t>& alternatives : object.values) {
      push({static_cast<uint32_t>(alternatives.size())});
      for (const uint32_t rule : alternatives) push({rule, 0});
    }
    return static_cast<uint32_t>(rules_.size() - 1);
  }
  uint32_t array(const Array& array) {
    rules_.push_back({2, static_cast<uint32_t>(words_.size()), 0, kUnlimited});
    push({static_cast<uint32_t>(array.places.size()), array.rest ? 1u : 0u, array.bits, array.minimum, array.maximum});
    auto lists = array.places;
    if (array.rest) lists.push_back(*array.rest);
    for (const auto& list : lists) {
      push({static_cast<uint32_t>(list.size())});
      for (const auto& [rule, sets] : list) push({rule, sets});
    }
    return static_cast<uint32_t>(rules_.size() - 1);
  }

  std::vector<uint32_t> words(uint32_t start, bool flexible = false) const {
    std::vector<uint32_t> states, edges, calls, reach;
    for (const State& state : states_) {
      const uint32_t flags = (state.accepts ? kAccepts : 0u) | (state.reach ? kNameState : 0u);
      for (const uint32_t word : {static_cast<uint32_t>(edges.size() / 2), static_cast<uint32_t>(calls.size() / 2),
                                  flags, state.needs, state.run, state.run_length}) {
        states.push_back(word);
      }
      for (const State::Arc& arc : state.edges) {
        edges.push_back(arc.low | arc.high << 8 | arc.flags << 16);
        edges.push_back(arc.target);
      }
      for (const auto& [rule, back] : state.calls) calls.insert(calls.end(), {rule, back});
      if (state.reach) {
        reach.insert(reach.end(), {state.reach->first | state.reach->end << 16, state.reach->others});
      }
    }
    std::vector<uint32_t> out = {kMagic,
                                 flexible ? 1u : 0u,
                                 start,
                                 static_cast<uint32_t>(rules_.size()),
                                 static_cast<uint32_t>(states_.size()),
                                 static_cast<uint32_t>(edges.size() / 2),
                                 static_cast<uint32_t>(calls.size() / 2),
                                 static_cast<uint32_t>(words_.size())};
    for (const auto& rule : rules_) out.insert(out.end(), rule.begin(), rule.end());
    for (const std::vector<uint32_t>& part : {states, edges, calls, words_, reach}) {
      out.insert(out.end(), part.begin(), part.end());
    }
    return out;
  }
  std::shared_ptr<const Program> program(uint32_t start, bool flexible = false) const {
    return std::make_shared<const Program>(words(start, flexible));
  }

 private:
  void push(std::initializer_list<uint32_t> words) { words_.insert(words_.end(), words); }
  uint32_t add(const std::vector<State>& states) {
    const auto base = static_cast<uint32_t>(states_.size());
    for (State state : states) {
      for (State::Arc& arc : state.edges) {
        if ((arc.target & kName) == 0) arc.target += base;
      }
      for (auto& [rule, back] : state.calls) back += base;
      states_.push_back(std::move(state));
    }
    return base;
  }

  std::vector<std::array<uint32_t, 4>> rules_;
  std::vector<State> states_;
  std::vector<uint32_t> words_;
};

struct Token {
  std::string bytes;
  bool special = false;
  bool known = true;
};

// As lib/text/tokenizer/pieces.ts lays it out.
inline std::vector<uint32_t> table(const std::vector<Token>& tokens) {
  std::vector<uint32_t> out = {static_cast<uint32_t>(tokens.size()), 0, 0, 0};
  std::string flags, bytes;
  for (const Token& token : tokens) {
    out.push_back(static_cast<uint32_t>(bytes.size()));
    bytes += token.bytes;
    flags += static_cast<char>((token.known ? 1 : 0) | (token.special ? 2 : 0));
  }
  out.push_back(static_cast<uint32_t>(bytes.size()));
  out[2] = static_cast<uint32_t>(bytes.size());
  out.resize(out.size() + tokens.size() + 1);  // where texts begin
  std::string rest = flags + bytes;
  rest.resize((rest.size() + 3) / 4 * 4);
  const size_t words = out.size();
  out.resize(words + rest.size() / 4);
  std::memcpy(out.data() + words, rest.data(), rest.size());
  return out;
}

// What a special token stands for within a constraint.
inline std::string special(uint32_t token) {
  std::string out = "\xff\xfe";
  for (const int shift : {0, 6, 12, 18}) out += static_cast<char>(0x80 | (token >> shift & 0x3f));
  return out;
}

inline bool has(const MaskWords& mask, size_t token) {
  return (mask[token / 32] >> (token % 32) & 1) != 0;
}

}  // namespace rules
