#pragma once
// A constraint on the tiny model's answers.
#include <cstring>
#include <memory>
#include <string>

#include "constraint/rules.h"

namespace millrace {

// The tiny model's 97 tokens: a to z and 0 to 9, pairs of them, and the rest that no answer under constraint() has.
inline std::shared_ptr<const constraint::Vocabulary> letters() {
  std::vector<rules::Token> tokens;
  const std::string characters = "abcdefghijklmnopqrstuvwxyz0123456789";
  for (const char c : characters) tokens.push_back({std::string(1, c)});
  for (const char* pair : {"az", "z0", "0a", "an0", "bc", "9k"}) tokens.push_back({pair});
  while (tokens.size() < 97) tokens.push_back({"!" + std::to_string(tokens.size())});
  return std::make_shared<const constraint::Vocabulary>(rules::table(tokens));
}

// A letter of a to m, one of n to z, a digit, and so on for ever: other tokens at every place.
inline std::shared_ptr<constraint::Constraint> in_turns() {
  rules::Writer writer;
  const uint32_t rule = writer.automaton(
      {{.edges = {{'a', 'm', 0, 1}}, .accepts = true}, {.edges = {{'n', 'z', 0, 2}}}, {.edges = {{'0', '9', 0, 0}}}});
  return std::make_shared<constraint::Constraint>(writer.program(rule), letters());
}

}  // namespace millrace
