// Rules as they are read: what is damaged is refused, or read within its bounds.
#include "check.h"
#include "core/error.h"
#include "rules.h"

using namespace rules;

namespace {

// With all that rules can have: counts, calls, an object with other names, an array with a condition.
std::vector<uint32_t> words_of_all() {
  Writer writer;
  const uint32_t number = writer.choice({"1", "12", "-3"});
  std::vector<State> text(3);
  text[0].edges = {{'"', '"', 0, 1}};
  text[1].edges = {{'"', '"', kEnds, 2}, {'a', 'z', kCounts, 1}};
  text[1].run = class_of_ascii('a');
  text[1].run_length = kUnlimited;
  text[2].accepts = true;
  const uint32_t counted = writer.automaton(text, 1, 4);
  Object object;
  State begin, named, other;
  begin.edges = {{'a', 'a', 0, 1}, {'b', 'c', kCounts, 2}};
  begin.reach = NameReach{0, 1, 1};
  named.edges = {{'"', '"', kEnds, kName | 0}, {'b', 'c', kCounts, 2}};
  named.reach = NameReach{0, 1, 1};
  other.edges = {{'"', '"', kEnds, kName | 1}, {'b', 'c', kCounts, 2}};
  other.reach = NameReach{0, 0, 1};
  object.names = {begin, named, other};
  object.members = 1;
  object.tracks = true;
  object.minimum = 2;
  object.maximum = 5;
  object.others = 1;
  object.values = {{number, counted}, {counted}};
  const uint32_t members = writer.object(object);
  Array array;
  array.places = {{{members, 0}}};
  array.rest = {{{counted, 1}, {number, 0}}};
  array.bits = 1;
  const uint32_t items = writer.array(array);
  std::vector<State> start(2);
  start[0].calls = {{items, 1}};
  start[1].accepts = true;
  return writer.words(writer.automaton(start), true);
}

}  // namespace

TEST(rules_are_read_whole) {
  const auto program = std::make_shared<const Program>(words_of_all());
  CHECK(program->flexible);
  CHECK_EQ(program->objects.size(), 1u);
  CHECK_EQ(program->objects[0].minimum, 2u);
  CHECK_EQ(program->arrays.size(), 1u);
  CHECK_EQ(program->arrays[0].last[0], kUnlimited);
  Constraint constraint(program, nullptr);
  const auto accepts = [&](const std::string& text) {
    return constraint.accepts({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
  };
  CHECK(accepts(R"([{"a":12,"b":"x"},"yes"])"));
  CHECK(accepts(R"([ {"bc" : "x", "b":"q"} , -3, "no" ])"));
  CHECK(!accepts(R"([{"b":"x","b":"y"},"yes"])"));
  CHECK(!accepts(R"([{"a":12},"yes"])"));
  CHECK(!accepts(R"([{"a":12,"b":"x"},1])"));
  CHECK(!accepts(R"([{"a":12,"b":"x"},"toolong"])"));
}

TEST(damaged_rules_are_refused_or_stay_within_their_bounds) {
  const std::vector<uint32_t> whole = words_of_all();
  const std::string text = R"([{"a":12,"bc":"x"},"yes"])";
  auto random = check::random();
  int refused = 0, read = 0;
  for (int round = 0; round < 20'000; round++) {
    std::vector<uint32_t> words = whole;
    for (uint64_t changes = 1 + random() % 3; changes > 0; changes--) {
      uint32_t& word = words[random() % words.size()];
      const uint64_t how = random() % 4;
      word = how == 0 ? static_cast<uint32_t>(random()) : how == 1 ? word + 1 : how == 2 ? word - 1 : random() % 40;
    }
    if (round % 10 == 0) words.resize(random() % words.size());
    try {
      Constraint constraint(std::make_shared<const Program>(words), nullptr);
      constraint.accepts({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
      read++;
    } catch (const millrace::Error& error) {
      const std::string code = error.code();
      CHECK(code == millrace::code::kInvalidArgument || code == millrace::code::kConstraintTooLarge);
      refused++;
    }
  }
  CHECK(refused > 1000);
  CHECK(read > 1000);
}
