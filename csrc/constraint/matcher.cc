#include "constraint/matcher.h"

namespace millrace::constraint {

Constraint::Constraint(std::shared_ptr<const Program> program, std::shared_ptr<const Vocabulary> vocabulary,
                       Limits limits)
    : program_(std::move(program)), vocabulary_(std::move(vocabulary)), limits_(limits), automaton_(program_) {}

bool Constraint::accepts(std::span<const uint8_t> text) {
  std::lock_guard lock(mutex_);
  make_room();
  uint32_t state = automaton_.begin();
  for (const uint8_t byte : text) {
    state = automaton_.next(state, byte);
    if (state == Automaton::kDead) return false;
    make_room(&state);  // a text that meets many states must not keep them all
  }
  return automaton_.accepts(state);
}

size_t Constraint::bytes() {
  std::lock_guard lock(mutex_);
  return automaton_.bytes() + mask_bytes_ + program_->bytes;
}

void Constraint::make_room(uint32_t* also) {
  if (automaton_.bytes() > limits_.states) {
    std::vector<uint32_t*> kept;
    if (also != nullptr) kept.push_back(also);
    for (Matcher* matcher : matchers_) kept.push_back(&matcher->state_);
    automaton_.forget(kept);
    masks_.clear();
    mask_bytes_ = 0;
  }
  if (mask_bytes_ > limits_.masks) {
    masks_.clear();
    mask_bytes_ = 0;
  }
}

std::shared_ptr<const MaskWords> Constraint::mask(uint32_t state) {
  if (state < masks_.size() && masks_[state]) return masks_[state];
  auto made = std::make_shared<MaskWords>((vocabulary_->size() + 31) / 32, 0);
  const bool plain = (kPlain & ~automaton_.run(state)) == 0;
  const uint32_t length = automaton_.run_length(state);
  if (plain) vocabulary_->add_plain(length, *made);
  if (!plain || (length != kUnlimited && !automaton_.runs_alone(state))) {
    if (takes_most(vocabulary_->plain(), state)) {
      vocabulary_->add_plain(kUnlimited, *made);
      walk_away(vocabulary_->plain(), state, *made);
    } else {
      walk(vocabulary_->plain(), state, *made);
    }
  }
  walk(vocabulary_->others(), state, *made);
  if (state >= masks_.size()) masks_.resize(automaton_.size());
  mask_bytes_ += made->size() * sizeof(uint32_t);
  return masks_[state] = std::move(made);
}

void Constraint::walk(const Vocabulary::Trie& trie, uint32_t state, MaskWords& mask) {
  uint32_t path[257];
  path[0] = state;
  for (uint32_t i = 0; i < trie.size();) {
    const Vocabulary::Node& node = trie.nodes[i];
    const uint32_t next = automaton_.next(path[node.depth - 1], node.byte);
    if (next == Automaton::kDead) {
      i = node.skip;
      continue;
    }
    path[node.depth] = next;
    const bool all = takes_all(node, next);
    const std::span<const int32_t> tokens = trie.tokens_of(node);
    for (const int32_t token : all ? tokens : tokens.first(node.tokens)) {
      mask[static_cast<uint32_t>(token) / 32] |= 1u << (token % 32);
    }
    i = all ? node.skip : i + 1;
  }
}

void Constraint::walk_away(const Vocabulary::Trie& trie, uint32_t state, MaskWords& mask) {
  uint32_t path[257];
  path[0] = state;
  for (uint32_t i = 0; i < trie.size();) {
    const Vocabulary::Node& node = trie.nodes[i];
    const uint32_t next = automaton_.next(path[node.depth - 1], node.byte);
    path[node.depth] = next;
    if (next == Automaton::kDead) {
      for (const int32_t token : trie.tokens_of(node)) {
        mask[static_cast<uint32_t>(token) / 32] &= ~(1u << (token % 32));
      }
    }
    i = next == Automaton::kDead || takes_all(node, next) ? node.skip : i + 1;
  }
}

bool Constraint::takes_most(const Vocabulary::Trie& trie, uint32_t state) {
  size_t taken = 0;
  for (uint32_t i = 0; i < trie.size(); i = trie.nodes[i].skip) {
    const Vocabulary::Node& node = trie.nodes[i];
    const uint32_t next = automaton_.next(state, node.byte);
    if (next != Automaton::kDead && takes_all(node, next)) taken += trie.tokens_of(node).size();
  }
  return taken > trie.ids.size() / 2;
}

Matcher::Matcher(std::shared_ptr<Constraint> constraint) : constraint_(std::move(constraint)) {
  std::lock_guard lock(constraint_->mutex_);
  state_ = constraint_->automaton_.begin();
  constraint_->matchers_.insert(this);
  look();
}

Matcher::Matcher(const Matcher& other) : constraint_(other.constraint_) {
  std::lock_guard lock(constraint_->mutex_);
  state_ = other.state_;
  accepts_ = other.accepts_, ended_ = other.ended_;
  constraint_->matchers_.insert(this);
}

Matcher::~Matcher() {
  std::lock_guard lock(constraint_->mutex_);
  constraint_->matchers_.erase(this);
}

void Matcher::look() {
  accepts_ = constraint_->automaton_.accepts(state_);
  ended_ = constraint_->automaton_.ended(state_);
}

bool Matcher::take(int32_t token) {
  const Vocabulary& vocabulary = *constraint_->vocabulary_;
  if (token < 0 || static_cast<uint32_t>(token) >= vocabulary.size() || vocabulary.bytes(token).empty()) return false;
  return take(vocabulary.bytes(token));
}

bool Matcher::take(std::span<const uint8_t> bytes) {
  std::lock_guard lock(constraint_->mutex_);
  constraint_->make_room();
  uint32_t state = state_;
  for (const uint8_t byte : bytes) state = constraint_->automaton_.next(state, byte);
  if (state == Automaton::kDead) return false;
  state_ = state;
  look();
  return true;
}

std::shared_ptr<const MaskWords> Matcher::mask() {
  std::lock_guard lock(constraint_->mutex_);
  constraint_->make_room();
  return constraint_->mask(state_);
}

std::shared_ptr<const MaskWords> Matcher::known_mask() {
  const std::unique_lock lock(constraint_->mutex_, std::try_to_lock);
  if (!lock || state_ >= constraint_->masks_.size()) return nullptr;
  return constraint_->masks_[state_];
}

}  // namespace millrace::constraint
