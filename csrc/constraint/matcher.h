#pragma once
// A constraint on the answers of one vocabulary: which tokens may come next, whatever was said so far. States and masks
// are made when they are first wanted, shared by all answers under the constraint and forgotten when they take too
// much.
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_set>
#include <vector>

#include "constraint/automaton.h"
#include "constraint/program.h"
#include "constraint/vocabulary.h"

namespace millrace::constraint {

// One bit a token, the lowest first: 1 for those that may come.
using MaskWords = std::vector<uint32_t>;

// Bytes of states, and of masks, that one constraint keeps.
struct Limits {
  size_t states = size_t{48} << 20;
  size_t masks = size_t{48} << 20;
};

class Matcher;

class Constraint {
 public:
  // Without a vocabulary it reads texts alone.
  Constraint(std::shared_ptr<const Program> program, std::shared_ptr<const Vocabulary> vocabulary, Limits limits = {});

  // Throws CONSTRAINT_TOO_LARGE, as all that reads.
  bool accepts(std::span<const uint8_t> text);
  const Vocabulary* vocabulary() const { return vocabulary_.get(); }
  size_t bytes();

 private:
  friend class Matcher;

  // All of it with mutex_ held.
  std::shared_ptr<const MaskWords> mask(uint32_t state);
  void walk(const Vocabulary::Trie& trie, uint32_t state, MaskWords& mask);
  // The same of a mask that has all of the trie's tokens: takes away those that may not come.
  void walk_away(const Vocabulary::Trie& trie, uint32_t state, MaskWords& mask);
  bool takes_most(const Vocabulary::Trie& trie, uint32_t state);
  // All tokens of a node's subtree may come in this state.
  bool takes_all(const Vocabulary::Node& node, uint32_t state) const {
    return (node.below & ~automaton_.run(state)) == 0 && node.longest <= automaton_.run_length(state);
  }
  void make_room(uint32_t* also = nullptr);

  const std::shared_ptr<const Program> program_;
  const std::shared_ptr<const Vocabulary> vocabulary_;
  const Limits limits_;
  std::mutex mutex_;
  Automaton automaton_;
  std::vector<std::shared_ptr<const MaskWords>> masks_;  // by state
  size_t mask_bytes_ = 0;
  std::unordered_set<Matcher*> matchers_;
};

// Where one answer is. One thread at a time.
class Matcher {
 public:
  explicit Matcher(std::shared_ptr<Constraint> constraint);
  ~Matcher();
  // Another answer, as far as this one.
  Matcher(const Matcher& other);
  Matcher& operator=(const Matcher&) = delete;

  // The token came; false if it may not.
  bool take(int32_t token);
  bool take(std::span<const uint8_t> bytes);
  // The answer may end here; it must.
  bool accepts() const { return accepts_; }
  bool ended() const { return ended_; }
  std::shared_ptr<const MaskWords> mask();
  // The same if it is known and nobody else is at work on the constraint; null.
  std::shared_ptr<const MaskWords> known_mask();

 private:
  friend class Constraint;
  void look();

  const std::shared_ptr<Constraint> constraint_;
  uint32_t state_ = 0;
  bool accepts_ = false, ended_ = false;
};

}  // namespace millrace::constraint
