// Layers that keep states: who goes on with a copy of them has the bits of who computes them anew.
#include "talks.h"

using namespace millrace;

namespace {

// Drafts of a sequence of theirs: what comes, but for one of four.
auto guess(const std::vector<Asked>& asked) {
  return [&asked](const Sequence& sequence, int count, std::vector<int32_t>& drafts) {
    const auto own = std::ranges::find_if(asked, [&](const Asked& one) {
      return one.options.tokens == sequence.options.tokens && one.options.seed == sequence.options.seed;
    });
    for (int i = 0; i < count && own != asked.end(); i++) {
      const auto at = static_cast<size_t>(sequence.generated() + i);
      if (at >= own->alone.tokens.size()) return;
      drafts.push_back(at % 4 == 3 ? 7 : own->alone.tokens[at]);
    }
  };
}

}  // namespace

TEST(a_turn_goes_on_where_the_answer_before_it_has_ended) {
  Engine engine;
  const auto host = tiny_hybrid(3);
  Anew anew(engine, host);
  for (const StepsAhead ahead : {StepsAhead::never, StepsAhead::always}) {
    for (const int devices : {1, 2}) {
      Placement placement;
      placement.ahead = ahead;
      placement.devices = devices;
      const auto model = make_model(host, placement);
      engine.add(model);
      auto random = check::random();
      std::vector<int32_t> tokens = text(random, 20);
      uint64_t expected = 0;
      for (int at = 0; at < 4; at++) {
        RequestOptions options = turn(tokens, 20);
        if (at == 2) {  // a stop is met one step late: the pass under way has moved the states
          options.stop_tokens = {anew.answer(options).tokens[17]};
        }
        Result result;
        CHECK_EQ(reused_by(engine, model, options, result), expected);
        check_same(result, anew.answer(options));
        tokens = joined(std::move(tokens), result.tokens);
        // The last token of an answer has not been computed.
        expected = static_cast<uint64_t>(whole_blocks(static_cast<int>(tokens.size()) - 1));
        tokens = joined(std::move(tokens), text(random, 5));
      }
      if (ahead == StepsAhead::always) CHECK(model->counters().steps_ahead.load() > 0);
      close_and_wait(engine, model);
    }
  }
}

TEST(a_turn_with_drafts_goes_on_where_one_without_would) {
  Engine engine;
  const auto host = tiny_hybrid(7);
  Anew anew(engine, host);
  const auto say = [](const std::vector<int32_t>& answer, int wrong) {
    return [&answer, wrong, asked = 0](const Sequence& sequence, int count, std::vector<int32_t>& drafts) mutable {
      for (int i = 0; i < count; i++) {
        const auto at = static_cast<size_t>(sequence.generated() + i);
        const int32_t token = at < answer.size() ? answer[at] : 3;
        drafts.push_back(wrong > 0 && ++asked % wrong == 0 ? (token + 1) % 97 : token);
      }
    };
  };
  for (const int wrong : {0, 1, 3, 5}) {  // of so many drafts the last
    for (const int devices : {1, 2}) {
      std::vector<int32_t> answer;
      Placement placement;
      placement.ahead = StepsAhead::always;
      placement.devices = devices;
      placement.draft = say(answer, wrong);
      const auto model = make_model(host, placement);
      engine.add(model);
      auto random = check::random(static_cast<uint64_t>(wrong));
      std::vector<int32_t> tokens = text(random, 20);
      uint64_t expected = 0;
      for (int at = 0; at < 4; at++) {
        RequestOptions options = turn(tokens, 20);
        options.drafts = DraftMethod::ngram;
        options.draft_tokens = 6;
        answer = anew.answer(options).tokens;
        if (at == 2) {  // drafts go on behind it
          options.stop_tokens = {answer[17]};
        }
        Result result;
        CHECK_EQ(reused_by(engine, model, options, result), expected);
        check_same(result, anew.answer(options));
        CHECK(result.drafted > 0);
        CHECK(wrong == 1 ? result.accepted == 0 : result.accepted > 0);
        tokens = joined(std::move(tokens), result.tokens);
        expected = static_cast<uint64_t>(whole_blocks(static_cast<int>(tokens.size()) - 1));
        tokens = joined(std::move(tokens), text(random, 5));
      }
      close_and_wait(engine, model);
    }
  }
}

TEST(drafts_take_what_is_kept_for_them_and_no_copy) {
  Engine engine;
  const auto host = tiny_hybrid(8);
  Anew anew(engine, host);
  auto random = check::random();
  std::vector<RequestOptions> prompts;
  for (int i = 0; i < 6; i++) {
    prompts.push_back(turn(text(random, 49), 9));
    prompts.back().drafts = DraftMethod::ngram;
    prompts.back().draft_tokens = 8;
  }
  int most = 0;
  Placement placement;
  placement.draft = [&](const Sequence& sequence, int count, std::vector<int32_t>& drafts) {
    most = std::max(most, count);
    drafts.assign(static_cast<size_t>(count), static_cast<int32_t>(sequence.generated()));
  };
  // One that runs, copies, and so many for drafts.
  for (const auto& [copies, kept] : {std::pair{2, 3}, {3, 0}, {0, 4}}) {
    placement.windowed_kv_blocks = 1 + copies + kept;
    placement.draft_states = kept;
    const auto model = make_model(host, placement);
    engine.add(model);
    const auto ask = [&](int i, uint64_t reused) {
      Result result;
      most = 0;
      CHECK_EQ(reused_by(engine, model, prompts[i], result), reused);
      check_same(result, anew.answer(prompts[i]));
    };
    // Copies of all take more than there is, and drafts have theirs all the same.
    for (int i = 0; i < 6; i++) {
      ask(i, 0);
      CHECK_EQ(most, kept);
    }
    ask(5, copies == 0 ? 0 : 48);
    CHECK_EQ(most, kept);
    close_and_wait(engine, model);
  }
}

TEST(prompts_that_part_from_a_known_one_leave_a_copy_there) {
  Engine engine;
  const auto host = tiny_hybrid(4);
  Anew anew(engine, host);
  const auto model = make_model(host, {});
  engine.add(model);
  auto random = check::random();
  const std::vector<int32_t> system = text(random, 50);
  const auto asked = [&] { return turn(joined(system, text(random, 40)), 2); };
  const std::vector<std::pair<RequestOptions, uint64_t>> prompts = {
      {asked(), 0}, {asked(), 0}, {asked(), 48}, {asked(), 48}};
  for (const auto& [options, expected] : prompts) {
    Result result;
    CHECK_EQ(reused_by(engine, model, options, result), expected);
    check_same(result, anew.answer(options));
  }
  Result again;
  CHECK_EQ(reused_by(engine, model, prompts[2].first, again), 80u);
  check_same(again, anew.answer(prompts[2].first));
  close_and_wait(engine, model);
}

TEST(copies_of_states_used_longest_ago_go_first_and_those_that_run_go_before_all) {
  Engine engine;
  const auto host = tiny_hybrid(5);
  Anew anew(engine, host);
  auto random = check::random();
  std::vector<RequestOptions> prompts;
  for (int i = 0; i < 3; i++) prompts.push_back(turn(text(random, 49), 1));
  const auto reuses = [&](int blocks, const std::vector<int>& order, int in_ram = 0) {
    Placement placement;
    placement.kv_swap_blocks = in_ram;
    placement.windowed_kv_blocks = blocks;  // of states
    placement.draft_states = 0;
    const auto model = make_model(host, placement);
    engine.add(model);
    std::vector<uint64_t> found;
    for (const int i : order) {
      Result result;
      found.push_back(reused_by(engine, model, prompts[i], result));
      check_same(result, anew.answer(prompts[i]));
    }
    close_and_wait(engine, model);
    return found;
  };
  CHECK(reuses(4, {0, 1, 2, 0, 1, 2}) == (std::vector<uint64_t>{0, 0, 0, 48, 48, 48}));
  // Two copies beside the one that runs: that of 0 is found, so that of 1 gives way to 2's.
  CHECK(reuses(3, {0, 1, 0, 2, 0, 1}) == (std::vector<uint64_t>{0, 0, 48, 0, 48, 0}));
  // With room in system RAM it comes back from there, and stays there for the next.
  CHECK(reuses(3, {0, 1, 0, 2, 0, 1, 1, 2}, 80) == (std::vector<uint64_t>{0, 0, 48, 0, 48, 48, 48, 48}));
  CHECK(reuses(1, {0, 0, 0}) == (std::vector<uint64_t>{0, 0, 0}));
}

TEST(talks_have_the_same_bits_with_copies_of_states_and_without) {
  Engine engine;
  for (int round = 0; round < 6; round++) {
    auto random = check::random(static_cast<uint64_t>(round));
    const auto host = tiny_hybrid(random());
    const KvType kv_type = round % 2 == 0 ? KvType::f16 : KvType::q8;
    Anew anew(engine, host, kv_type);
    const std::vector<Asked> asked = talks(anew, random, 30);
    for (int crowd : {1, 3, 8}) {
      Placement placement;
      placement.kv_type = kv_type;
      placement.kv_blocks = random() % 2 == 0 ? 40 : 14;
      placement.windowed_kv_blocks = 1 + static_cast<int>(random() % 14);
      placement.kv_swap_blocks = random() % 2 == 0 ? 80 : 0;
      placement.max_rows = 8 + static_cast<int>(random() % 60);
      placement.devices = 1 + static_cast<int>(random() % 2);
      placement.ahead = random() % 2 == 0 ? StepsAhead::always : StepsAhead::never;
      placement.draft_states = static_cast<int>(random() % 6);
      if (random() % 2 == 0) placement.draft = guess(asked);
      const auto model = make_model(host, placement);
      engine.add(model);
      for (size_t at = 0; at < asked.size(); at += crowd) {
        const auto sink = std::make_shared<Collector>();
        std::vector<std::pair<uint64_t, const Asked*>> submitted;
        for (size_t i = at; i < std::min(asked.size(), at + crowd); i++) {
          submitted.emplace_back(engine.submit(model, asked[i].options, sink), &asked[i]);
          if (random() % 4 != 0) continue;
          // Somebody who leaves early has the same text.
          RequestOptions left = asked[i].options;
          left.kind = RequestKind::generate;
          left.max_tokens = 100;
          const uint64_t id = engine.submit(model, left, sink);
          if (random() % 2 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(random() % 4));
          engine.cancel(model, id);
        }
        for (const auto& [id, one] : submitted) check_same(sink->wait(id), one->alone);
      }
      if (crowd == 1 && placement.windowed_kv_blocks > 3) CHECK(model->counters().reused_tokens.load() > 0);
      close_and_wait(engine, model);
    }
  }
}
