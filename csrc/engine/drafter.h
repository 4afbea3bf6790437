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
  // Before anything is known, `rate`, which two drafts outweigh.
  explicit Acceptance(double rate = 0.5) : right_(2 * rate), wrong_(2 - 2 * rate) {}
  // The probability that the next draft is right, given that those before it were.
  double rate() const { return right_ / (right_ + wrong_); }
  void take(int drafted, int accepted);

 private:
  double right_, wrong_;
};

// What passes cost by their rows: as the plan predicts it, corrected by the passes that were seen.
class PassCosts {
 public:
  // Predicted of passes with 1, 2, ... decode rows, in seconds; rows beyond cost as the last ones do. Empty: rows are
  // free, whatever is seen.
  explicit PassCosts(std::vector<double> by_rows)
      : predicted_(std::move(by_rows)), seen_(predicted_.size()), costs_(predicted_) {}
  // A pass of so many decode rows and no others has taken so long.
  void see(int rows, double seconds);
  double of(int rows) const;  // of one at least
  // How many of the `gains`, which descend, are worth their rows beside `rows` others, those whose drafts they are: the
  // probabilities that a row yields a token. As many as bring most tokens in a unit of cost.
  int worthwhile(int rows, std::span<const double> gains) const;

 private:
  // Of a number of rows: how many times as long as predicted passes take.
  struct Seen {
    int passes = 0;
    double ratio = 1;
    bool counts() const { return passes > 1; }
  };
  void set_costs();

  std::vector<double> predicted_;
  std::vector<Seen> seen_;
  std::vector<double> costs_;  // what comes of the two
};

}  // namespace millrace
