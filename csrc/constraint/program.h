#pragma once
// What a constraint is compiled to (lib/constraint/rules.ts writes it): rules that call each other. Three kinds:
//
//   automaton  states with edges over bytes, deterministic, and calls of other rules. One whose rule has a minimum or a
//              maximum counts on the edges marked so, the characters of a text as a rule.
//   object     a JSON object: its members in any order, each name once. An automaton reads names and says which member
//              one is; what was seen is kept in a set.
//   array      a JSON array: what each place takes, how many there may be.
//
// In 32-bit words:
//   magic, flags, start rule, rules, states, edges, calls, words of objects and arrays
//   rules  x 4: kind, start state or place in the words, minimum, maximum (kUnlimited: none)
//   states x 6: first edge, first call, flags, characters that it takes at least to an end, classes of characters
//               (classes.h) of which any text may follow, of at most so many characters (kUnlimited: any number)
//   edges  x 2: lowest byte | highest << 8 | flags << 16, target
//   calls  x 2: rule, state to go on in
//   words:
//     object  name automaton's first state, members, alternatives' bits in words of 32, flags, minimum, maximum,
//             required[bits], implications { member, members[bits] } counted, kinds of other names,
//             then of each member and each kind of other names: alternatives { rule, sets[bits] } counted
//     array   places of their own, has a rest, bits, minimum, maximum,
//             then of each place, and of the rest: alternatives { rule, sets } counted
//   A state of an object's name automaton has two words more, in the order of states behind all that is above: the
//   members that it can still come to, as a range (first | end << 16), and kinds of other names, as a set.
#include <cstdint>
#include <span>
#include <vector>

#include "constraint/classes.h"

namespace millrace::constraint {

inline constexpr uint32_t kMagic = 0x4d524332;
inline constexpr uint32_t kUnlimited = 0xffffffff;

enum class RuleKind : uint32_t { automaton, object, array };

enum StateFlags : uint32_t { kAccepts = 1, kNameState = 2 };
// kCounts: a character is whole. kEnds: only where the count is enough.
enum EdgeFlags : uint32_t { kCounts = 1, kEnds = 2 };
// Of an edge of a name automaton, the closing quote: the target is a member, or a kind of other names behind them.
inline constexpr uint32_t kName = 0x80000000;

struct Edge {
  uint8_t low, high;
  uint8_t flags;
  uint32_t target;
};

struct Call {
  uint32_t rule, back;
};

struct Alternative {
  uint32_t rule;
  std::vector<uint32_t> sets;
};

struct ObjectRule {
  uint32_t names = 0;         // first state of the automaton of names
  uint32_t members = 0;       // named ones: bits [0, members) say which were seen; what else must be met follows
  uint32_t words = 0;         // of such a set
  bool tracks_names = false;  // other names count once each
  uint32_t minimum = 0, maximum = kUnlimited;
  std::vector<uint32_t> required;
  struct Implication {
    uint32_t member;
    std::vector<uint32_t> required;
  };
  std::vector<Implication> implications;
  uint32_t others = 0;                           // kinds of other names
  std::vector<std::vector<Alternative>> values;  // [members + others]
};

struct ArrayRule {
  struct Item {
    uint32_t rule, sets;
  };
  std::vector<std::vector<Item>> places;
  bool has_rest = false;
  std::vector<Item> rest;
  uint32_t bits = 0;  // that must be set in the end
  uint32_t minimum = 0, maximum = kUnlimited;
  // Of each bit, the last place that can set it; kUnlimited: any.
  std::vector<uint32_t> last;

  const std::vector<Item>& at(uint32_t place) const { return place < places.size() ? places[place] : rest; }
};

struct Rule {
  RuleKind kind = RuleKind::automaton;
  uint32_t start = 0;  // state, or index among objects or arrays
  uint32_t minimum = 0, maximum = kUnlimited;
  uint32_t special = 0;  // of objects and arrays: the first of the states that they have beside those of automata
};

struct AutomatonState {
  uint32_t edges = 0, calls = 0;
  uint32_t flags = 0;
  uint32_t needs = 0;
  Classes run = 0;
  uint32_t run_length = 0;
};

// Ranges of what a name's state can come to.
struct NameReach {
  uint32_t first = 0, end = 0, others = 0;
};

class Program {
 public:
  // Throws INVALID_ARGUMENT: what is read is within the words, whatever they say.
  explicit Program(std::span<const uint32_t> words);

  bool flexible = false;  // any white space between the parts of JSON
  uint32_t start = 0;
  std::vector<Rule> rules;
  std::vector<AutomatonState> states;  // and one more, which ends the last's edges and calls
  std::vector<uint32_t> rule_of;       // of every state, special ones too
  std::vector<Edge> edges;
  std::vector<Call> calls;
  std::vector<ObjectRule> objects;
  std::vector<ArrayRule> arrays;
  std::vector<NameReach> reach;  // of every automaton's state
  size_t bytes = 0;

  uint32_t automaton_states() const { return static_cast<uint32_t>(states.size()) - 1; }
};

}  // namespace millrace::constraint
