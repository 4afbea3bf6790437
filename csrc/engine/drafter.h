#pragma once
// Drafts: tokens that may come next, guessed before the model is asked, so that one pass checks several. A draft stands
// only where it is what the sampler would have chosen, so that drafts change how many passes an answer takes and no
// token of it. See docs/ARCHITECTURE.md, "Drafts".
#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace millrace {

// From what a sequence has said before: where its last tokens stood earlier, what followed them there.
class NgramDrafter {
 public:
  // The tokens so far, of which none but the last ones are new since the last call.
  void learn(std::span<const int32_t> tokens);
  // Of tokens that were learnt: adds at most `count` to `drafts`, none where the last ones are seen for the first time.
  // Where what followed reaches the end it is taken to repeat itself.
  void draft(std::span<const int32_t> tokens, int count, std::vector<int32_t>& drafts) const;

 private:
  // The longer the run that is found again, the more probable its continuation: the longest is tried first.
  static constexpr std::array<int, 3> kLengths = {5, 3, 2};
  // Of each length, by hash: the last place of such a run, or of another one with its hash; that of its last token, and
  // one more, so that 0 is none.
  std::array<std::vector<int32_t>, kLengths.size()> places_;
  int learnt_ = 0;  // runs that end before this place are in
};

// How often a sequence's drafts were right of late.
class Acceptance {
 public:
  // The probability that the next draft is right, given that those before it were.
  double rate() const { return right_ / (right_ + wrong_); }
  void take(int drafted, int accepted);

 private:
  double right_ = 1, wrong_ = 1;  // before anything is known, one in two
};

// What passes cost by their rows.
class PassCosts {
 public:
  // Of passes with 1, 2, ... decode rows, in any unit; rows beyond cost as the last ones do. Empty: rows are free.
  explicit PassCosts(std::vector<double> by_rows) : by_rows_(std::move(by_rows)) {}
  double of(int rows) const;  // of one at least
  // How many of the `gains`, which descend, are worth their rows beside `rows` others, those whose drafts they are: the
  // probabilities that a row yields a token. As many as bring most tokens in a unit of cost.
  int worthwhile(int rows, std::span<const double> gains) const;

 private:
  std::vector<double> by_rows_;
};

}  // namespace millrace
