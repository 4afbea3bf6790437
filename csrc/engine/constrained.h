#pragma once
// A sequence under a constraint: where it is, and the masks of its next tokens.
#include <memory>
#include <span>
#include <vector>

#include "backend/token_mask.h"
#include "constraint/matcher.h"

namespace millrace {

class Constrained {
 public:
  // `stop_tokens` end the answer, and may come where it may end alone.
  Constrained(std::shared_ptr<constraint::Constraint> constraint, std::vector<int32_t> stop_tokens);
  ~Constrained();

  // The mask of the next token and, for each draft, of the token behind it, on their way: made by the process's pool.
  // Behind a draft that may not come, which is never chosen, masks are of no meaning. The worker's thread.
  std::span<const std::shared_ptr<TokenMask>> next_masks(std::span<const int32_t> drafts);
  // That of the token behind the next one, for a pass that is launched before the next one is known: it comes after
  // make_later_mask(), once that was taken. Who waits for it waits no longer, and finds none, after
  // give_up_later_mask() or with the end of this.
  std::shared_ptr<TokenMask> later_mask();
  void make_later_mask();
  void give_up_later_mask();
  // The token was chosen by that mask. False: it may not come.
  bool take(int32_t token);
  // Of what was taken: the answer may end here; nothing may follow.
  bool accepts() const;
  bool ended() const;
  // Of next_masks(), or the later one that was made: says why there was none.
  const TokenMask& mask(int index) const { return *masks_[index]; }

 private:
  struct Shared;                               // with the task that makes a mask, which may outlive the sequence
  void make(std::span<const int32_t> drafts);  // masks_

  std::shared_ptr<Shared> shared_;
  std::vector<std::shared_ptr<TokenMask>> masks_;
  std::shared_ptr<TokenMask> later_;
};

}  // namespace millrace
