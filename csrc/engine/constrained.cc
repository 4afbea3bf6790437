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
  std::shared_ptr<const TokenMask::Words> with_stops(const constraint::Matcher& at,
                                                     std::shared_ptr<const TokenMask::Words> words) const {
    const bool may_end = at.accepts();
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

Constrained::~Constrained() {
  give_up_later_mask();
}

std::span<const std::shared_ptr<TokenMask>> Constrained::next_masks(std::span<const int32_t> drafts) {
  masks_.clear();
  for (size_t i = 0; i <= drafts.size(); i++) masks_.push_back(std::make_shared<TokenMask>());
  make(drafts);
  return masks_;
}

std::shared_ptr<TokenMask> Constrained::later_mask() {
  later_ = std::make_shared<TokenMask>();
  return later_;
}

void Constrained::make_later_mask() {
  if (!later_) return;
  masks_.assign(1, std::move(later_));
  later_ = nullptr;
  make({});
}

void Constrained::give_up_later_mask() {
  if (later_) later_->set(nullptr);
  later_ = nullptr;
}

void Constrained::make(std::span<const int32_t> drafts) {
  if (shared_->matcher && drafts.empty()) {
    if (std::shared_ptr<const TokenMask::Words> known = shared_->matcher->known_mask()) {
      masks_[0]->set(shared_->with_stops(*shared_->matcher, std::move(known)));
      return;
    }
  }
  constraint::Pool::process().post(
      [shared = shared_, masks = masks_, drafts = std::vector(drafts.begin(), drafts.end())] {
        size_t made = 0;
        try {
          if (!shared->matcher) shared->matcher = std::make_unique<constraint::Matcher>(shared->constraint);
          std::unique_ptr<constraint::Matcher> ahead;
          if (!drafts.empty()) ahead = std::make_unique<constraint::Matcher>(*shared->matcher);
          while (made < masks.size()) {
            constraint::Matcher& at = ahead ? *ahead : *shared->matcher;
            const std::shared_ptr<const TokenMask::Words> words = shared->with_stops(at, at.mask());
            masks[made++]->set(words);
            if (made == masks.size() || ahead->take(drafts[made - 1])) continue;
            while (made < masks.size()) masks[made++]->set(words);
          }
        } catch (...) {
          while (made < masks.size()) masks[made++]->fail(current_error());
        }
      });
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
