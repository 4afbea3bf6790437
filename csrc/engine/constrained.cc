#include "engine/constrained.h"

#include <algorithm>

#include "constraint/pool.h"

namespace millrace {

namespace {

bool has(const TokenMask::Words& words, int32_t token) {
  return static_cast<size_t>(token) / 32 < words.size() && (words[token / 32] >> (token % 32) & 1) != 0;
}

}  // namespace

struct Constrained::Shared {
  std::shared_ptr<constraint::Constraint> constraint;
  std::vector<int32_t> stop_tokens;
  std::unique_ptr<constraint::Matcher> matcher;  // made where nobody waits for it

  // What the constraint lets come, and the tokens that end the answer where it may.
  std::shared_ptr<const TokenMask::Words> with_stops(std::shared_ptr<const TokenMask::Words> words) const {
    const bool may_end = matcher->accepts();
    const auto fits = [&](int32_t token) { return has(*words, token) == may_end; };
    if (std::all_of(stop_tokens.begin(), stop_tokens.end(), fits)) return words;
    auto own = std::make_shared<TokenMask::Words>(*words);
    for (const int32_t token : stop_tokens) {
      if (static_cast<size_t>(token) / 32 >= own->size()) own->resize(token / 32 + 1, 0);
      uint32_t& word = (*own)[token / 32];
      const uint32_t bit = 1u << (token % 32);
      word = may_end ? word | bit : word & ~bit;
    }
    return own;
  }
};

Constrained::Constrained(std::shared_ptr<constraint::Constraint> constraint, std::vector<int32_t> stop_tokens)
    : shared_(std::make_shared<Shared>()) {
  shared_->constraint = std::move(constraint);
  shared_->stop_tokens = std::move(stop_tokens);
}

const TokenMask* Constrained::next_mask() {
  mask_ = std::make_shared<TokenMask>();
  if (shared_->matcher) {
    if (std::shared_ptr<const TokenMask::Words> known = shared_->matcher->known_mask()) {
      mask_->set(shared_->with_stops(std::move(known)));
      return mask_.get();
    }
  }
  constraint::Pool::process().post([shared = shared_, mask = mask_] {
    try {
      if (!shared->matcher) shared->matcher = std::make_unique<constraint::Matcher>(shared->constraint);
      mask->set(shared->with_stops(shared->matcher->mask()));
    } catch (...) {
      mask->fail(current_error());
    }
  });
  return mask_.get();
}

bool Constrained::take(int32_t token) {
  return shared_->matcher->take(token);
}

bool Constrained::accepts() const {
  return shared_->matcher && shared_->matcher->accepts();
}

bool Constrained::ended() const {
  return shared_->matcher && shared_->matcher->ended();
}

}  // namespace millrace
