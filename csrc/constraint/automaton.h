#pragma once
// A program run on any text at once: a state is the set of all ways in which what came so far can be read, and is made
// when it is first met. A way is a state of a rule, what that rule has counted or seen, and where it returns to: a set
// of ways again, so that ways which call the same rule at the same place go on as one. States, sets and what was seen
// are kept once each, under numbers.
#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "constraint/interned.h"
#include "constraint/program.h"

namespace millrace::constraint {

struct Way {
  uint32_t state = 0;
  uint32_t seen = 0;  // automata and arrays: a count; objects: a number of what was seen
  uint32_t back = 0;  // a set of ways, one of which goes on when the rule has ended
  auto operator<=>(const Way&) const = default;
};

class Automaton {
 public:
  static constexpr uint32_t kDead = 0;
  static constexpr uint32_t kUnknown = 0xffffffff;
  // What comes behind each byte.
  using Table = std::array<uint32_t, 256>;

  explicit Automaton(std::shared_ptr<const Program> program);

  uint32_t begin() const { return begin_; }
  // kDead where the byte cannot follow. Throws CONSTRAINT_TOO_LARGE where there are too many ways to read a text.
  uint32_t next(uint32_t state, uint8_t byte) {
    const auto& table = states_[state].next;
    if (table) {
      const uint32_t known = (*table)[byte];
      if (known != kUnknown) return known;
    }
    return compute(state, byte);
  }
  // The text may end here.
  bool accepts(uint32_t state) const { return states_[state].accepts; }
  // It must.
  bool ended(uint32_t state) const { return states_[state].ended; }
  // Any text of these classes may come in this state, of at most so many characters.
  Classes run(uint32_t state) const { return states_[state].run; }
  uint32_t run_length(uint32_t state) const { return states_[state].run_length; }
  // No other text of these classes may come: a count alone bounds it.
  bool runs_alone(uint32_t state) const { return states_[state].runs_alone; }
  uint32_t size() const { return static_cast<uint32_t>(states_.size()); }
  size_t bytes() const;

  // Forgets all states but those at the pointers, which get their new numbers.
  void forget(const std::vector<uint32_t*>& kept);

 private:
  static constexpr uint32_t kDone = 0xffffffff;  // the state of the way that has read it all

  struct State {
    std::unique_ptr<Table> next;
    bool accepts = false, ended = false;
    bool runs_alone = false;
    Classes run = 0;
    uint32_t run_length = 0;
  };
  struct Pending {
    uint32_t rule;
    bool tail;  // returns to `back.back` at once
    Way back;
  };
  struct Range {
    unsigned low = 0, high = 255;
    void within(unsigned first, unsigned last) {
      low = first > low ? first : low;
      high = last < high ? last : high;
    }
  };

  uint32_t compute(uint32_t state, uint8_t byte);
  uint32_t intern_state();
  void step(const Way& way, uint8_t byte, Range& range);
  void step_automaton(const Way& way, uint8_t byte, Range& range);
  void step_name(const Rule& rule, const Way& way, const Edge& edge, uint8_t byte, Range& range);
  void step_object(const Rule& rule, uint32_t state, const Way& way, uint8_t byte, Range& range);
  void step_array(const Rule& rule, uint32_t state, const Way& way, uint8_t byte, Range& range);
  // A choice of single bytes: `byte` is the way's next if it is `wanted`.
  static bool is(uint8_t byte, uint8_t wanted, Range& range);
  bool space(uint8_t byte, Range& range) const;
  void expand(const Way& way);
  void expand_special(const Way& way);
  void call(uint32_t rule, Way back, bool tail = false) { pending_.push_back({rule, tail, back}); }
  void call_items(const Rule& rule, const ArrayRule& array, const Way& way);
  void add(const Way& way);
  void close();
  Way enter(uint32_t rule, uint32_t back);

  // ---- objects: what was seen is [count, name so far, members[words], other names...]
  static constexpr size_t kRecordHead = 2;
  const ObjectRule& object_of(const Rule& rule) const { return program_->objects[rule.start]; }
  bool fits(const ObjectRule& object, std::span<const uint32_t> record) const;
  uint32_t missing(const ObjectRule& object, std::span<const uint32_t> record) const;
  bool may_close(const ObjectRule& object, uint32_t seen) const;
  bool permitted(const ObjectRule& object, uint32_t member, uint32_t seen);
  bool alive(const ObjectRule& object, const NameReach& reach, uint32_t seen);
  // Members of all kinds that have no name of their own.
  bool permits_others(const ObjectRule& object, uint32_t seen);
  bool may_add(const Rule& rule, uint32_t seen);
  bool tracks(const ObjectRule& object, uint32_t seen) const;
  uint32_t with_member(const ObjectRule& object, uint32_t member, const Alternative& alternative, uint32_t seen);

  std::shared_ptr<const Program> program_;
  Interned<Way> state_ways_, backs_;
  Interned<uint32_t> records_;
  Interned<uint32_t> names_;  // [name, byte]
  std::vector<State> states_;
  size_t tables_ = 0;
  uint32_t begin_ = 0;
  std::vector<uint32_t> first_record_;  // of each object rule

  // Of the state in the making.
  std::vector<Way> seeds_, work_, out_, group_;
  std::vector<Pending> pending_, calls_;
  std::vector<uint32_t> slots_;  // of all ways met, by hash
  std::vector<Way> met_;
  std::vector<uint32_t> record_, scratch_;
};

}  // namespace millrace::constraint
