#pragma once
// A sequence under a constraint: where it is, and the mask of its next token.
#include <memory>
#include <vector>

#include "backend/token_mask.h"
#include "constraint/matcher.h"

namespace millrace {

class Constrained {
 public:
  // `stop_tokens` end the answer, and may come where it may end alone.
  Constrained(std::shared_ptr<constraint::Constraint> constraint, std::vector<int32_t> stop_tokens);

  // The mask of the next token, on its way: made by the process's pool. Engine's thread.
  const TokenMask* next_mask();
  // The token was chosen by that mask. False: it may not come.
  bool take(int32_t token);
  // Of what was taken: the answer may end here; nothing may follow.
  bool accepts() const;
  bool ended() const;
  // Why there was no mask.
  const TokenMask& mask() const { return *mask_; }

 private:
  struct Shared;  // with the task that makes a mask, which may outlive the sequence

  std::shared_ptr<Shared> shared_;
  std::shared_ptr<TokenMask> mask_;
};

}  // namespace millrace
