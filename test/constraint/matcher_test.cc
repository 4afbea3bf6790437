// Masks of small vocabularies against all texts of small languages: a token may come where some text goes on with it.
#include <algorithm>
#include <functional>
#include <set>

#include "check.h"
#include "core/error.h"
#include "rules.h"

using namespace rules;

namespace {

using Language = std::vector<std::string>;

// Whether any text of the language begins so, exactly what a mask must say.
bool begins(const Language& sorted, const std::string& prefix) {
  const auto at = std::lower_bound(sorted.begin(), sorted.end(), prefix);
  return at != sorted.end() && at->compare(0, prefix.size(), prefix) == 0;
}

// Pieces of the language's own texts, which cut code points anywhere, single bytes, and others at random.
std::vector<Token> tokens_of(const Language& language, std::mt19937_64& random) {
  std::set<std::string> out;
  for (int i = 0; i < 60; i++) {
    const std::string& text = language[random() % language.size()];
    if (text.empty()) continue;
    const size_t begin = random() % text.size();
    out.insert(text.substr(begin, 1 + random() % 6));
  }
  for (const std::string& text : language) {
    for (const char c : text) out.insert(std::string(1, c));
  }
  for (const char* other : {"a", "\"", "b\"", "é", "\xc3", "\xa9", "zzz", " ", "\n", ", \"", "\\", "\xf0\x9f"}) {
    out.insert(other);
  }
  std::vector<Token> tokens;
  for (const std::string& bytes : out) {
    if (static_cast<uint8_t>(bytes[0]) < 0xf8) tokens.push_back({bytes});
  }
  std::shuffle(tokens.begin(), tokens.end(), random);
  tokens.push_back({"<end>", true});
  tokens.push_back({"unknown", false, false});
  tokens.push_back({""});
  return tokens;
}

// Walks through texts of the language and compares every mask on the way.
void check_masks(const std::shared_ptr<const Program>& program, Language language, std::mt19937_64& random,
                 Limits limits = {}) {
  std::sort(language.begin(), language.end());
  const std::vector<Token> tokens = tokens_of(language, random);
  const auto vocabulary = std::make_shared<const Vocabulary>(table(tokens));
  const auto constraint = std::make_shared<Constraint>(program, vocabulary, limits);
  for (int walk = 0; walk < 8; walk++) {
    Matcher matcher(constraint);
    std::string text;
    while (true) {
      const bool whole = std::binary_search(language.begin(), language.end(), text);
      CHECK_EQ(matcher.accepts(), whole);
      const auto next = std::upper_bound(language.begin(), language.end(), text);
      CHECK_EQ(matcher.ended(), whole && (next == language.end() || next->compare(0, text.size(), text) != 0));
      const std::shared_ptr<const MaskWords> mask = matcher.mask();
      CHECK(matcher.known_mask() == mask);
      std::vector<int32_t> allowed;
      for (size_t token = 0; token < tokens.size(); token++) {
        const auto& [bytes, special, known] = tokens[token];
        const bool may = known && !special && !bytes.empty() && begins(language, text + bytes);
        if (may) allowed.push_back(static_cast<int32_t>(token));
        if (has(*mask, token) != may) {
          check::fail(__FILE__, __LINE__, "behind '" + text + "' token '" + bytes + "' " + (may ? "lacks" : "is set"));
        }
        Matcher other(matcher);
        CHECK_EQ(other.take(static_cast<int32_t>(token)), may);
      }
      if (allowed.empty()) break;
      const int32_t token = allowed[random() % allowed.size()];
      CHECK(matcher.take(token));
      text += tokens[static_cast<size_t>(token)].bytes;
    }
  }
  for (const std::string& text : language) {
    CHECK(constraint->accepts({reinterpret_cast<const uint8_t*>(text.data()), text.size()}));
  }
}

Language random_texts(std::mt19937_64& random) {
  const char* pieces[] = {"a", "b", "é", "😀", "日", "\"", "\\", "\n", "1", " "};
  Language out;
  const size_t count = 1 + random() % 10;
  for (size_t i = 0; i < count; i++) {
    std::string text;
    for (size_t left = random() % 6; left > 0; left--) text += pieces[random() % std::size(pieces)];
    out.push_back(text);
  }
  std::sort(out.begin(), out.end());
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

Language joined(const Language& a, const Language& b) {
  std::set<std::string> out;
  for (const std::string& x : a) {
    for (const std::string& y : b) out.insert(x + y);
  }
  return {out.begin(), out.end()};
}

// Each text with one space or none at every mark.
Language spaced(const Language& marked) {
  Language out;
  for (const std::string& text : marked) {
    const auto marks = std::count(text.begin(), text.end(), '^');
    for (uint32_t chosen = 0; chosen < 1u << marks; chosen++) {
      std::string own;
      int mark = 0;
      for (const char c : text) {
        if (c != '^') {
          own += c;
        } else if ((chosen >> mark++ & 1) != 0) {
          own += ' ';
        }
      }
      out.push_back(own);
    }
  }
  std::sort(out.begin(), out.end());
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

State name_state(std::vector<State::Arc> edges, NameReach reach) {
  State state;
  state.edges = std::move(edges);
  state.reach = reach;
  return state;
}

}  // namespace

TEST(choices_of_random_texts) {
  auto random = check::random();
  for (int round = 0; round < 60; round++) {
    const Language language = random_texts(random);
    Writer writer;
    const uint32_t start = writer.choice(language);
    check_masks(writer.program(start), language, random);
  }
}

TEST(rules_that_call_others_one_behind_the_other_and_as_alternatives) {
  auto random = check::random(1);
  for (int round = 0; round < 40; round++) {
    const Language a = random_texts(random), b = random_texts(random), c = random_texts(random);
    Writer writer;
    const uint32_t first = writer.choice(a), second = writer.choice(b), other = writer.choice(c);
    // (a b) | c | c b, ambiguous where texts are alike.
    std::vector<State> states(4);
    states[0].calls = {{first, 1}, {other, 3}, {other, 2}};
    states[1].calls = {{second, 3}};
    states[2].calls = {{second, 3}};
    states[3].accepts = true;
    const uint32_t start = writer.automaton(states);
    Language language = joined(a, b);
    for (const Language& more : {c, joined(c, b)}) language.insert(language.end(), more.begin(), more.end());
    std::sort(language.begin(), language.end());
    language.erase(std::unique(language.begin(), language.end()), language.end());
    check_masks(writer.program(start), language, random);
  }
}

TEST(a_language_that_nests) {
  auto random = check::random(2);
  Writer writer;
  // S = x | [ S ] S: of at most so deep a text the language is finite.
  std::vector<State> states(5);
  states[0].edges = {{'[', '[', 0, 1}, {'x', 'x', 0, 4}};
  states[1].calls = {{0, 2}};
  states[2].edges = {{']', ']', 0, 3}};
  states[3].calls = {{0, 4}};
  states[4].accepts = true;
  const auto program = writer.program(writer.automaton(states));
  const std::vector<Token> tokens = {{"["}, {"]"}, {"x"}, {"[x"}, {"x]"}, {"x]x"}, {"]]"}, {"[[x"}, {"xx"}, {"]["}};
  const auto constraint = std::make_shared<Constraint>(program, std::make_shared<const Vocabulary>(table(tokens)));
  // A text can go on while what is open may be closed, and nothing may follow the end.
  const auto viable = [](const std::string& text) {
    std::vector<char> wanted = {'S'};
    for (const char c : text) {
      if (wanted.empty()) return false;
      const char top = wanted.back();
      wanted.pop_back();
      if (top == ']') {
        if (c != ']') return false;
      } else if (c == '[') {
        for (const char next : {'S', ']', 'S'}) wanted.push_back(next);
      } else if (c != 'x') {
        return false;
      }
    }
    return true;
  };
  for (int walk = 0; walk < 40; walk++) {
    Matcher matcher(constraint);
    std::string text;
    for (int step = 0; step < 30 && !matcher.ended(); step++) {
      const auto mask = matcher.mask();
      std::vector<int32_t> allowed;
      for (size_t token = 0; token < tokens.size(); token++) {
        const bool may = viable(text + tokens[token].bytes);
        CHECK_EQ(has(*mask, token), may);
        if (may) allowed.push_back(static_cast<int32_t>(token));
      }
      REQUIRE(!allowed.empty());
      const int32_t token = allowed[random() % allowed.size()];
      CHECK(matcher.take(token));
      text += tokens[static_cast<size_t>(token)].bytes;
    }
  }
}

TEST(characters_are_counted_whole) {
  auto random = check::random(3);
  for (const auto& [minimum, maximum] : {std::pair{0u, 2u}, {2u, 3u}, {1u, 1u}, {3u, 3u}}) {
    Writer writer;
    // "[aé😀\n]*", of so many characters; those within one have another before them.
    std::vector<State> states(8);
    states[0].edges = {{'"', '"', 0, 1}};
    states[1].edges = {
        {'"', '"', kEnds, 7}, {'\\', '\\', 0, 2}, {'a', 'a', kCounts, 1}, {0xc3, 0xc3, 0, 3}, {0xf0, 0xf0, 0, 4}};
    states[2].edges = {{'n', 'n', kCounts, 1}};
    states[3].edges = {{0xa9, 0xa9, kCounts, 1}};
    states[4].edges = {{0x9f, 0x9f, 0, 5}};
    states[5].edges = {{0x98, 0x98, 0, 6}};
    states[6].edges = {{0x80, 0x80, kCounts, 1}};
    for (const int within : {2, 3, 4, 5, 6}) states[static_cast<size_t>(within)].needs = 1;
    states[7].accepts = true;
    const uint32_t start = writer.automaton(states, minimum, maximum);
    Language language;
    const std::function<void(const std::string&, uint32_t)> add = [&](const std::string& text, uint32_t count) {
      if (count >= minimum) language.push_back(text + '"');
      if (count == maximum) return;
      for (const char* c : {"a", "é", "😀", "\\n"}) add(text + c, count + 1);
    };
    add("\"", 0);
    check_masks(writer.program(start), language, random);
  }
}

TEST(objects_have_their_members_in_any_order_each_once) {
  auto random = check::random(4);
  for (const auto& [required, minimum, maximum] :
       {std::tuple{0b010u, 0u, kUnlimited}, {0u, 2u, kUnlimited}, {0b100u, 0u, 2u}, {0u, 0u, 0u}}) {
    Writer writer;
    const uint32_t one = writer.literal("1"), text = writer.literal("\"x\""), empty = writer.literal("[]");
    // Names: a, ab, é.
    const std::vector<State> names = {
        name_state({{'a', 'a', 0, 1}, {0xc3, 0xc3, 0, 3}}, {0, 3, 0}),
        name_state({{'"', '"', kEnds, kName | 0}, {'b', 'b', 0, 2}}, {0, 2, 0}),
        name_state({{'"', '"', kEnds, kName | 1}}, {1, 2, 0}),
        name_state({{0xa9, 0xa9, kCounts, 4}}, {2, 3, 0}),
        name_state({{'"', '"', kEnds, kName | 2}}, {2, 3, 0}),
    };
    Object object;
    object.names = names;
    object.members = 3;
    object.required = required;
    object.minimum = minimum;
    object.maximum = maximum;
    object.values = {{one, text}, {one}, {empty}};
    const uint32_t start = writer.object(object);
    Language marked;
    const std::vector<std::vector<std::string>> members = {{"\"a\":^1", "\"a\":^\"x\""}, {"\"ab\":^1"}, {"\"é\":^[]"}};
    const std::function<void(const std::string&, uint32_t)> add = [&](const std::string& before, uint32_t seen) {
      const auto count = static_cast<uint32_t>(std::popcount(seen));
      if (count >= minimum && count <= maximum && (required & ~seen) == 0) {
        marked.push_back("{^" + before + (seen == 0 ? "}" : "^}"));
      }
      for (uint32_t member = 0; member < 3; member++) {
        if ((seen >> member & 1) != 0) continue;
        for (const std::string& own : members[member]) {
          add(before + (seen == 0 ? "" : ",^") + own, seen | 1u << member);
        }
      }
    };
    add("", 0);
    check_masks(writer.program(start), spaced(marked), random);
  }
}

TEST(arrays_take_what_each_place_takes) {
  auto random = check::random(5);
  Writer writer;
  const uint32_t one = writer.literal("1"), two = writer.literal("2"), text = writer.literal("\"é\"");
  // [1, 2 or "é", then 1 or 2], of one to four; a 2 must be among them.
  Array array;
  array.places = {{{one, 0}}, {{two, 1}, {text, 0}}};
  array.rest = {{{one, 0}, {two, 1}}};
  array.bits = 1;
  array.minimum = 1;
  array.maximum = 4;
  const uint32_t start = writer.array(array);
  Language marked;
  const std::function<void(const std::string&, int, bool)> add = [&](const std::string& before, int count, bool met) {
    if (count >= 1 && met) marked.push_back("[^" + before + "^]");
    if (count == 4) return;
    const std::vector<std::string> items = count == 0   ? std::vector<std::string>{"1"}
                                           : count == 1 ? std::vector<std::string>{"2", "\"é\""}
                                                        : std::vector<std::string>{"1", "2"};
    for (const std::string& item : items) add(before + (count == 0 ? "" : ",^") + item, count + 1, met || item == "2");
  };
  add("", 0, false);
  check_masks(writer.program(start), spaced(marked), random);
}

TEST(a_special_token_is_itself_and_no_text) {
  const std::vector<Token> tokens = {{"<"}, {"call"}, {">"}, {"<call>"}, {"<call>", true}, {"<other>", true}, {"x"}};
  Writer writer;
  const uint32_t begin = writer.literal(special(4));
  const uint32_t text = writer.choice({"x", "<call>"});
  std::vector<State> states(3);
  states[0].calls = {{begin, 1}};
  states[1].calls = {{text, 2}};
  states[2].accepts = true;
  const auto program = writer.program(writer.automaton(states));
  const auto constraint = std::make_shared<Constraint>(program, std::make_shared<const Vocabulary>(table(tokens)));
  Matcher matcher(constraint);
  const auto allowed = [&] {
    std::vector<size_t> out;
    const auto mask = matcher.mask();
    for (size_t token = 0; token < tokens.size(); token++) {
      if (has(*mask, token)) out.push_back(token);
    }
    return out;
  };
  CHECK(allowed() == std::vector<size_t>({4}));
  CHECK(!matcher.take(3));
  CHECK(matcher.take(4));
  CHECK(allowed() == std::vector<size_t>({0, 3, 6}));
  CHECK(!matcher.take(4));
  CHECK(matcher.take(3));
  CHECK(matcher.ended());
  CHECK(allowed().empty());
}

TEST(what_is_forgotten_is_made_again) {
  auto random = check::random(6);
  for (int round = 0; round < 20; round++) {
    const Language a = random_texts(random), b = random_texts(random);
    Writer writer;
    const uint32_t first = writer.choice(a), second = writer.choice(b);
    std::vector<State> states(3);
    states[0].calls = {{first, 1}};
    states[1].calls = {{second, 2}};
    states[2].accepts = true;
    const uint32_t start = writer.automaton(states);
    check_masks(writer.program(start), joined(a, b), random, {.states = 1, .masks = size_t{1} << 20});
  }
}

TEST(too_many_ways_to_read_a_text_are_told) {
  Writer writer;
  std::vector<State> states(2);
  for (int i = 0; i < 25'000; i++) states[0].calls.emplace_back(writer.literal("a"), 1);
  states[1].accepts = true;
  const auto program = writer.program(writer.automaton(states));
  try {
    Constraint constraint(program, nullptr);
    CHECK(false);
  } catch (const millrace::Error& error) {
    CHECK_EQ(std::string(error.code()), millrace::code::kConstraintTooLarge);
  }
}
