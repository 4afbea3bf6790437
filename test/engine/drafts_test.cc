// Drafts change how many passes an answer takes, and not a bit of it.
#include "engine/drafter.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "engine/engine.h"
#include "harness.h"

using namespace millrace;

namespace {

std::vector<int32_t> drafts_of(const std::vector<int32_t>& tokens, int count) {
  NgramDrafter drafter;
  // One token at a time, as answers come.
  for (size_t length = 1; length <= tokens.size(); length++) drafter.learn(std::span(tokens).first(length));
  std::vector<int32_t> drafts;
  drafter.draft(tokens, count, drafts);
  return drafts;
}

std::vector<Result> one_by_one(Engine& engine, const std::shared_ptr<const HostModel>& host,
                               const std::vector<RequestOptions>& requests, KvType kv_type = KvType::f16) {
  Placement placement;
  placement.kv_type = kv_type;
  const auto model = make_model(host, placement);
  engine.add(model);
  const auto sink = std::make_shared<Collector>();
  std::vector<Result> results;
  for (RequestOptions options : requests) {
    options.drafts = DraftMethod::off;
    results.push_back(sink->wait(engine.submit(model, options, sink)));
    CHECK_EQ(results.back().drafted, 0);
  }
  close_and_wait(engine, model);
  return results;
}

// Knows the answers, and is wrong now and then: whoever asks is known by his seed.
struct Oracle {
  std::vector<Result> answers;  // by seed
  double right = 0.8;
  uint64_t state = 1;

  void operator()(const Sequence& sequence, int count, std::vector<int32_t>& drafts) {
    const std::vector<int32_t>& answer = answers[sequence.options.seed].tokens;
    for (int i = 0; i < count; i++) {
      state = state * 6364136223846793005ull + 1442695040888963407ull;
      const size_t at = static_cast<size_t>(sequence.generated() + i);
      if (at >= answer.size() && (state >> 62) == 0) return;  // fewer than asked for
      const bool lies = static_cast<double>(state >> 40) > right * 0x1p24;
      const int32_t token = at < answer.size() ? answer[at] : 7;
      drafts.push_back(lies ? static_cast<int32_t>((token + 1 + (state >> 33) % 90) % 97) : token);
    }
  }
};

std::vector<RequestOptions> some_requests(std::mt19937_64& random, int count) {
  std::vector<RequestOptions> requests;
  for (int i = 0; i < count; i++) {
    requests.push_back(request(random));
    RequestOptions& options = requests.back();
    options.seed = static_cast<uint64_t>(i);
    options.drafts = static_cast<DraftMethod>(random() % 4);
    options.draft_tokens = static_cast<int>(random() % 12);
    options.priority = static_cast<int>(random() % 3);
  }
  return requests;
}

RequestOptions greedy(int tokens) {
  RequestOptions options;
  options.tokens = {3, 1, 4, 1, 5};
  options.max_tokens = tokens;
  options.drafts = DraftMethod::ngram;
  options.draft_tokens = 7;
  return options;
}

uint64_t steps_of(Engine& engine, const std::shared_ptr<const HostModel>& host, const RequestOptions& options,
                  Placement placement, Result& result) {
  const auto model = make_model(host, placement);
  engine.add(model);
  const auto sink = std::make_shared<Collector>();
  result = sink->wait(engine.submit(model, options, sink));
  const uint64_t steps = model->counters().steps;
  close_and_wait(engine, model);
  return steps;
}

}  // namespace

TEST(what_followed_the_last_tokens_before_is_the_draft) {
  CHECK(drafts_of({1, 2, 3, 4, 9, 1, 2}, 3) == (std::vector<int32_t>{3, 4, 9}));
  CHECK(drafts_of({1, 2, 3, 4, 9, 8, 2}, 3).empty());  // of one token nothing is concluded
  // The longest run decides, and of equals the last.
  CHECK(drafts_of({5, 1, 2, 3, 7, 7, 1, 2, 4, 7, 6, 1, 2}, 1) == (std::vector<int32_t>{4}));
  CHECK(drafts_of({9, 8, 7, 1, 2, 3, 0, 0, 1, 2, 4, 6, 9, 8, 7, 1, 2}, 1) == (std::vector<int32_t>{3}));
  // What reaches the end repeats itself.
  CHECK(drafts_of({6, 1, 2, 1, 2}, 5) == (std::vector<int32_t>{1, 2, 1, 2, 1}));
  CHECK(drafts_of({1}, 4).empty());
  CHECK(drafts_of({1, 1}, 4).empty());
  CHECK(drafts_of({1, 1, 1}, 2) == (std::vector<int32_t>{1, 1}));
}

TEST(drafts_are_runs_of_the_text_itself) {
  auto random = check::random();
  for (int round = 0; round < 200; round++) {
    std::vector<int32_t> tokens(2 + random() % 900);
    for (int32_t& token : tokens) token = static_cast<int32_t>(random() % 6);
    const std::vector<int32_t> drafts = drafts_of(tokens, 3);
    if (drafts.empty()) continue;
    std::vector<int32_t> all = tokens;
    all.insert(all.end(), drafts.begin(), drafts.end());
    // The last two tokens and the drafts stand somewhere before.
    const auto run = std::span(all).last(2 + drafts.size());
    const auto found = std::ranges::search(std::span(all).first(all.size() - 1), run);
    CHECK(!found.empty());
  }
}

TEST(as_many_drafts_as_are_worth_their_rows) {
  const std::vector<double> gains = {0.9, 0.8, 0.7, 0.2};
  CHECK_EQ(PassCosts({}).worthwhile(1, gains), 4);                           // rows are free
  CHECK_EQ(PassCosts({1, 2, 3, 4, 5}).worthwhile(1, gains), 0);              // a row costs a pass
  CHECK_EQ(PassCosts({1, 1.1, 1.2, 1.3, 1.9}).worthwhile(1, gains), 3);      // the last gains less than it costs
  CHECK_EQ(PassCosts({1, 1, 1, 1, 1, 1, 1, 1, 2}).worthwhile(8, gains), 0);  // the next row is the first of a tile
  CHECK_EQ(PassCosts({1, 1.95, 1.95, 1.95, 3}).worthwhile(1, gains), 3);     // a step is overcome where it pays
  CHECK_EQ(PassCosts({1, 1}).worthwhile(64, {}), 0);
  CHECK_EQ(PassCosts({1, 1}).worthwhile(0, {}), 0);  // a pass of prompts alone
}

TEST(what_rows_cost_is_corrected_by_what_passes_took) {
  PassCosts costs({1, 1, 1, 1, 1, 1, 1, 1});
  const std::vector<double> sure(7, 1.0);
  CHECK_EQ(costs.worthwhile(1, sure), 7);
  // The first pass of a shape tells nothing, of the next ones the fastest, of a later one that met something little.
  costs.see(1, 50.0);
  CHECK_EQ(costs.of(1), 1.0);
  costs.see(1, 30.0);
  CHECK_EQ(costs.of(1), 30.0);
  costs.see(1, 2.0), costs.see(1, 40.0);
  CHECK_EQ(costs.of(1), 2.0);
  CHECK_EQ(costs.of(8), 2.0);    // what was not seen is off by as much
  PassCosts busy({1, 2, 4, 8});  // when the first two passes ran
  busy.see(1, 9), busy.see(1, 9);
  for (int i = 0; i < 2000; i++) busy.see(2, 2);
  CHECK(std::abs(busy.of(1) - 1) < 0.05);
  PassCosts odd({1, 1});  // more rows in less time are a mistake
  odd.see(1, 3), odd.see(1, 3), odd.see(2, 2), odd.see(2, 2);
  CHECK_EQ(odd.of(1), odd.of(2));
  costs.see(1, 90.0);
  CHECK(costs.of(1) > 2.0 && costs.of(1) < 2.2);
  for (int i = 0; i < 200; i++) costs.see(1, 2.0), costs.see(5, 60.0);
  CHECK(std::abs(costs.of(1) - 2) < 4 && std::abs(costs.of(5) - 60) < 4);
  CHECK(std::abs(costs.of(3) - (costs.of(1) + costs.of(5)) / 2) < 1e-9);  // between them a straight line
  CHECK_EQ(costs.of(8), costs.of(5));
  CHECK_EQ(costs.worthwhile(1, sure), 0);
  costs.see(0, 1.0), costs.see(9, 1.0);  // of neither anything was predicted
  PassCosts free({});
  free.see(1, 5.0);
  CHECK_EQ(free.of(1), 1.0);
  CHECK_EQ(free.worthwhile(1, sure), 7);
}

TEST(drafts_that_are_not_worth_it_hold_up_no_step) {
  // Passes whose rows cost too much for any draft are launched ahead as without drafts, and acceptance is known still.
  const auto host = tiny_model(check::seed() + 11);
  Engine engine;
  RequestOptions options = greedy(60);
  Result alone, drafted;
  options.drafts = DraftMethod::off;
  steps_of(engine, host, options, {}, alone);
  options.drafts = DraftMethod::automatic;
  Placement placement;
  placement.ahead = StepsAhead::always;
  placement.pass_costs = {1, 4, 9, 16, 25, 36, 49, 64};
  const auto model = make_model(host, placement);
  engine.add(model);
  const auto sink = std::make_shared<Collector>();
  check_same(sink->wait(engine.submit(model, options, sink)), alone);
  CHECK(model->counters().steps_ahead.load() > 50);
  close_and_wait(engine, model);
  // Free rows: what the answer repeats is drafted again, from passes that were launched ahead on.
  options.foreseen = alone.tokens;
  placement.pass_costs = {1, 1, 1, 1, 1, 1, 1, 1};
  CHECK(steps_of(engine, host, options, placement, drafted) < 20);
  check_same(drafted, alone);
}

TEST(acceptance_follows_what_was_seen) {
  Acceptance acceptance;
  CHECK_EQ(acceptance.rate(), 0.5);
  for (int i = 0; i < 100; i++) acceptance.take(4, 4);
  CHECK(acceptance.rate() > 0.98);
  for (int i = 0; i < 100; i++) acceptance.take(4, 0);
  CHECK(acceptance.rate() < 0.1);
  const double before = acceptance.rate();
  acceptance.take(0, 0);
  CHECK_EQ(acceptance.rate(), before);
}

TEST(same_bits_with_and_without_drafts_whatever_the_placement) {
  auto random = check::random(17);
  const char* asked = std::getenv("MILLRACE_SCHEDULES");
  const int schedules = asked == nullptr ? 4 : std::atoi(asked);
  uint64_t drafted = 0, accepted = 0;
  for (int schedule = 0; schedule < schedules; schedule++) {
    const uint64_t kind = schedule < 4 ? schedule : random() % 4;
    const auto host = kind == 0   ? tiny_hybrid(random())
                      : kind == 1 ? tiny_model(random(), 24)
                      : kind == 2 ? tiny_model(random(), 20, true)
                                  : tiny_model(random());
    Engine engine;
    const std::vector<RequestOptions> requests = some_requests(random, 16);
    const KvType kv_type = schedule % 2 == 0 ? KvType::q8 : KvType::f16;
    const std::vector<Result> alone = one_by_one(engine, host, requests, kv_type);

    std::vector<Placement> placements(7);
    for (size_t i = 0; i < placements.size(); i++) {
      Placement& p = placements[i];
      p.kv_type = kv_type;
      p.prefix_reuse = random() % 4 != 0;
      p.ahead = random() % 2 == 0 ? StepsAhead::always : StepsAhead::never;
      if (i > 0 && random() % 2 == 0) p.pass_costs = {1, 1.2, 1.4, 1.5, 1.6, 1.6, 1.6, 1.6, 2.4};
      if (kind == 0 && i > 0) {  // of states
        p.windowed_kv_blocks = 1 + static_cast<int>(random() % 20);
        p.draft_states = static_cast<int>(random() % 8);
      }
      p.draft = Oracle{alone, 0.3 + 0.1 * static_cast<double>(random() % 8), random()};
    }
    placements[1].draft = nullptr;  // its own n-grams
    placements[2].layers = Home::streamed;
    placements[2].poison = true;
    placements[2].max_rows = 9;
    placements[2].max_logit_rows = 6;
    placements[3].kv_blocks = 12;  // sequences are preempted
    placements[4].layers = Home::streamed;
    placements[4].mixed = placements[4].head_streamed = true;
    placements[4].devices = 2;
    placements[5].layers = Home::streamed;
    placements[5].cpu_feed_forwards = true;
    placements[6].kv_blocks = 12;
    placements[6].kv_swap_blocks = 0;  // and computed again
    placements[6].max_rows = 13;
    for (const Placement& placement : placements) {
      const auto model = make_model(host, placement);
      engine.add(model);
      const auto sink = std::make_shared<Collector>();
      std::vector<uint64_t> ids;
      for (const RequestOptions& options : requests) ids.push_back(engine.submit(model, options, sink));
      int sum = 0, stood = 0;
      for (size_t i = 0; i < ids.size(); i++) {
        const Result result = sink->wait(ids[i]);
        check_same(result, alone[i]);
        if (requests[i].drafts == DraftMethod::off || requests[i].draft_tokens == 0) CHECK_EQ(result.drafted, 0);
        CHECK(result.accepted <= result.drafted);
        sum += result.drafted, stood += result.accepted;
      }
      CHECK_EQ(model->counters().kv_blocks_used.load(), 0u);
      CHECK_EQ(model->counters().drafted_tokens.load(), static_cast<uint64_t>(sum));
      CHECK_EQ(model->counters().accepted_tokens.load(), static_cast<uint64_t>(stood));
      drafted += sum, accepted += stood;
      close_and_wait(engine, model);
    }
  }
  CHECK(accepted > 0 && accepted < drafted);
}

TEST(right_drafts_save_passes) {
  for (const bool hybrid : {false, true}) {
    const auto host = hybrid ? tiny_hybrid(check::seed() + 3) : tiny_model(check::seed() + 3);
    Engine engine;
    RequestOptions options = greedy(41);
    Result alone, drafted;
    RequestOptions without = options;
    without.drafts = DraftMethod::off;
    CHECK_EQ(steps_of(engine, host, without, {}, alone), 41u);
    Placement placement;
    placement.layers = Home::streamed;
    placement.draft = Oracle{{alone}, 1.0};
    // The prompt's pass gives the first token, then each pass eight: no drafts beyond the last token.
    CHECK_EQ(steps_of(engine, host, options, placement, drafted), 1u + 5u);
    check_same(drafted, alone);
    CHECK_EQ(drafted.accepted, 35);
    CHECK_EQ(drafted.drafted, 35);
    // Each a pass of its own again, where all are wrong.
    placement.draft = Oracle{{alone}, 0.0};
    CHECK_EQ(steps_of(engine, host, options, placement, drafted), 41u);
    check_same(drafted, alone);
    CHECK_EQ(drafted.accepted, 0);
  }
}

TEST(drafts_that_are_always_wrong_are_soon_left_out) {
  const auto host = tiny_model(check::seed() + 5);
  Engine engine;
  RequestOptions options = greedy(100);
  Result alone, drafted;
  options.drafts = DraftMethod::off;
  steps_of(engine, host, options, {}, alone);
  options.drafts = DraftMethod::automatic;
  Placement placement;
  placement.pass_costs = {1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7};
  placement.draft = Oracle{{alone}, 0.0};
  steps_of(engine, host, options, placement, drafted);
  check_same(drafted, alone);
  CHECK(drafted.drafted < 20);
  placement.draft = Oracle{{alone}, 1.0};
  CHECK(steps_of(engine, host, options, placement, drafted) < 25);
  check_same(drafted, alone);
}

TEST(a_stop_token_among_the_drafts_ends_the_answer_there) {
  const auto host = tiny_model(check::seed() + 7);
  Engine engine;
  RequestOptions options = greedy(40);
  options.temperature = 1.0f;
  options.top_logprobs = 3;
  options.logprobs = true;
  options.drafts = DraftMethod::off;
  Result whole, alone, drafted;
  steps_of(engine, host, options, {}, whole);
  options.stop_tokens = {whole.tokens[11]};
  steps_of(engine, host, options, {}, alone);
  CHECK(alone.finish == Finish::stop && alone.tokens.size() <= 11);
  options.drafts = DraftMethod::ngram;
  Placement placement;
  placement.draft = Oracle{{whole}, 1.0};  // it goes on behind the stop token
  CHECK(steps_of(engine, host, options, placement, drafted) <= 3);
  check_same(drafted, alone);
}

TEST(a_request_that_is_cancelled_leaves_the_others_as_they_were) {
  for (const bool hybrid : {false, true}) {
    // The sequence of another request goes on with the bits that it has alone.
    const auto host = hybrid ? tiny_hybrid(check::seed() + 9) : tiny_model(check::seed() + 9);
    Engine engine;
    std::vector<RequestOptions> requests(2, greedy(60));
    requests[1].tokens = {9, 9, 9, 2};
    requests[1].seed = 1;
    const std::vector<Result> alone = one_by_one(engine, host, requests);
    Placement placement;
    placement.draft = Oracle{alone, 0.7};
    placement.stream_hooks = unhurried();
    const auto model = make_model(host, placement);
    engine.add(model);
    const auto sink = std::make_shared<Collector>();
    const uint64_t first = engine.submit(model, requests[0], sink), second = engine.submit(model, requests[1], sink);
    while (sink->tokens_of(first) < 10) std::this_thread::yield();
    engine.cancel(model, first);
    check_same(sink->wait(second), alone[1]);
    CHECK(sink->wait(first).finish == Finish::abort);
    close_and_wait(engine, model);
  }
}
