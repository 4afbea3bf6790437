// Masks where any text may come, of which whole parts of the vocabulary are taken unread: against each token by itself.

#include "check.h"
#include "core/error.h"
#include "rules.h"

using namespace rules;

namespace {

// Classes that a text is made of, and how many characters it has at most.
struct Text {
  Classes classes = kPlain;
  uint32_t maximum = kUnlimited;
};

bool takes(const Text& text, uint32_t point) {
  if (point < 0x80) return (class_of_ascii(static_cast<uint8_t>(point)) & text.classes) != 0;
  return (text.classes & kBeyondAscii) != 0;
}

// Whether bytes begin a text in quotes of these classes: characters that are whole, then one that may become one.
bool begins(const Text& text, const std::string& bytes) {
  if (bytes.empty()) return true;
  if (bytes[0] != '"') return false;
  uint32_t count = 0;
  for (size_t i = 1; i < bytes.size(); count++) {
    const auto lead = static_cast<uint8_t>(bytes[i]);
    if (lead == '"') return i + 1 == bytes.size();
    if (count == text.maximum) return false;
    if (lead < 0x80) {
      if (!takes(text, lead)) return false;
      i++;
      continue;
    }
    if ((text.classes & kBeyondAscii) == 0) return false;
    const size_t length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    if (lead < 0xc2 || lead > 0xf4) return false;
    for (size_t k = 1; k < length; k++) {
      if (i + k == bytes.size()) return true;
      const auto byte = static_cast<uint8_t>(bytes[i + k]);
      if (byte < 0x80 || byte > 0xbf) return false;
      if (k > 1) continue;
      if (lead == 0xe0 && byte < 0xa0) return false;
      if (lead == 0xed && byte > 0x9f) return false;
      if (lead == 0xf0 && byte < 0x90) return false;
      if (lead == 0xf4 && byte > 0x8f) return false;
    }
    i += length;
  }
  return true;
}

std::shared_ptr<const Program> program_of(const Text& text) {
  std::vector<State> states(10);
  states[0].edges = {{'"', '"', 0, 1}};
  State& loop = states[1];
  for (uint32_t byte = 0; byte < 0x80; byte++) {
    const auto own = static_cast<uint8_t>(byte);
    if (byte == '"') {
      loop.edges.push_back({own, own, kEnds, 2});
    } else if (takes(text, byte)) {
      loop.edges.push_back({own, own, kCounts, 1});
    }
  }
  if ((text.classes & kBeyondAscii) != 0) {
    loop.edges.insert(loop.edges.end(), {{0xc2, 0xdf, 0, 3},
                                         {0xe0, 0xe0, 0, 5},
                                         {0xe1, 0xec, 0, 4},
                                         {0xed, 0xed, 0, 6},
                                         {0xee, 0xef, 0, 4},
                                         {0xf0, 0xf0, 0, 8},
                                         {0xf1, 0xf3, 0, 7},
                                         {0xf4, 0xf4, 0, 9}});
  }
  loop.run = text.classes;
  loop.run_length = kUnlimited;
  states[2].accepts = true;
  states[3].edges = {{0x80, 0xbf, kCounts, 1}};
  states[4].edges = {{0x80, 0xbf, 0, 3}};
  states[5].edges = {{0xa0, 0xbf, 0, 3}};
  states[6].edges = {{0x80, 0x9f, 0, 3}};
  states[7].edges = {{0x80, 0xbf, 0, 4}};
  states[8].edges = {{0x90, 0xbf, 0, 4}};
  states[9].edges = {{0x80, 0x8f, 0, 4}};
  for (size_t within = 3; within < 10; within++) states[within].needs = 1;
  Writer writer;
  return writer.program(writer.automaton(states, 0, text.maximum));
}

std::vector<Token> random_tokens(std::mt19937_64& random) {
  const std::string pieces[] = {"a", "Z", "9", "_", " ", "é", "日", "😀", "\"", "\\", "\n", "\x7f", "\xe2\x80\xa8",
                                // Of no character: cut, overlong, a surrogate, beyond the last.
                                "\xc3", "\xa9", "\xf0\x9f", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80"};
  std::vector<Token> out;
  for (int i = 0; i < 400; i++) {
    std::string bytes;
    // Most are plain, as those of vocabularies are.
    const size_t kinds = random() % 3 == 0 ? std::size(pieces) : 8;
    for (size_t left = 1 + random() % (i % 20 == 0 ? 40 : 6); left > 0; left--) bytes += pieces[random() % kinds];
    out.push_back({bytes});
  }
  return out;
}

}  // namespace

TEST(masks_of_any_text) {
  auto random = check::random();
  const Classes digits = class_of_ascii('5'), letters = class_of_ascii('a') | class_of_ascii('z');
  for (const Text& text : {Text{},
                           {kPlain, 5},
                           {kPlain, 0},
                           {kPlain, 30},
                           {digits | letters},
                           {kPlain & ~digits, 3},
                           {kBeyondAscii},
                           {Classes{digits}, 2}}) {
    const std::vector<Token> tokens = random_tokens(random);
    const auto vocabulary = std::make_shared<const Vocabulary>(table(tokens));
    const auto constraint = std::make_shared<Constraint>(program_of(text), vocabulary);
    for (const std::string before : {"", "\"", "\"a", "\"é😀", "\"\xe6", "\"\xf0\x9f\x98", "\"zzé", "\"\""}) {
      if (!begins(text, before)) continue;
      Matcher matcher(constraint);
      CHECK(matcher.take({reinterpret_cast<const uint8_t*>(before.data()), before.size()}));
      const auto mask = matcher.mask();
      for (size_t token = 0; token < tokens.size(); token++) {
        const bool may = begins(text, before + tokens[token].bytes);
        if (has(*mask, token) != may) {
          check::fail(__FILE__, __LINE__, "behind '" + before + "' token '" + tokens[token].bytes + "'");
        }
      }
    }
  }
}

TEST(tries_say_what_lies_below_their_nodes) {
  auto random = check::random(1);
  const std::vector<Token> tokens = random_tokens(random);
  const Vocabulary vocabulary(table(tokens));
  std::vector<int> met(tokens.size(), 0);
  for (const Vocabulary::Trie* trie : {&vocabulary.plain(), &vocabulary.others()}) {
    const bool plain = trie == &vocabulary.plain();
    std::string path;
    for (uint32_t i = 0; i < trie->size(); i++) {
      const Vocabulary::Node& node = trie->nodes[i];
      path.resize(node.depth - 1u);
      path += static_cast<char>(node.byte);
      Classes below = 0;
      int longest = 0;
      const std::span<const int32_t> within = trie->tokens_of(node);
      for (size_t at = 0; at < within.size(); at++) {
        const std::string& bytes = tokens[static_cast<size_t>(within[at])].bytes;
        CHECK_EQ(bytes.substr(0, path.size()), path);
        CHECK_EQ(bytes.size() == path.size(), at < node.tokens);
        if (bytes.size() == path.size()) met[static_cast<size_t>(within[at])]++;
        int characters = 0;
        for (size_t b = path.size(); b < bytes.size(); b++) {
          const auto byte = static_cast<uint8_t>(bytes[b]);
          below |= byte < 0x80 ? class_of_ascii(byte) : plain ? kBeyondAscii : kBroken;
          characters += (byte & 0xc0) != 0x80;
        }
        longest = std::max(longest, characters);
      }
      CHECK_EQ(node.below, below);
      CHECK_EQ(int{node.longest}, longest);
      CHECK_EQ(within.empty(), false);
    }
  }
  for (const int count : met) CHECK_EQ(count, 1);
}

TEST(damaged_tables_are_refused) {
  const std::vector<uint32_t> whole = table({{"ab"}, {"é"}, {"<end>", true}});
  CHECK_EQ(Vocabulary(whole).size(), 3u);
  auto random = check::random(2);
  for (int round = 0; round < 2000; round++) {
    std::vector<uint32_t> words = whole;
    if (round % 4 == 0)
      words.resize(random() % words.size());
    else
      words[random() % words.size()] = round % 2 == 0 ? random() % 16 : static_cast<uint32_t>(random());
    try {
      const Vocabulary vocabulary(words);
      CHECK(vocabulary.memory() > 0);
    } catch (const millrace::Error& error) {
      CHECK_EQ(std::string(error.code()), millrace::code::kInvalidArgument);
    }
  }
}
