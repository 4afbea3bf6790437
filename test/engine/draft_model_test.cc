// A draft model: its own keys and values follow the sequence whatever was refused, and no bit of an answer changes.
#include "engine/draft_model.h"

#include <algorithm>
#include <cstdlib>

#include "engine/engine.h"
#include "harness.h"
#include "stream/arena.h"

using namespace millrace;

namespace {

struct DraftPlace {
  Home home = Home::resident;
  int context = kContext;
  int kv_blocks = 400;
  int max_rows = 64;
  int max_sequences = 24;
  KvType kv_type = KvType::f16;
};

std::shared_ptr<DraftModel> draft_model(const std::shared_ptr<const HostModel>& host, const DraftPlace& place = {},
                                        std::unique_ptr<Backend> backend = nullptr) {
  DraftModelConfig config;
  size_t largest = 0;
  for (const UnitLayout& unit : host->units()) largest = std::max(largest, unit.bytes);
  config.homes.assign(host->units().size(), place.home);
  config.ring_bytes = 2 * largest;
  config.context_length = place.context;
  config.kv_blocks = place.kv_blocks;
  config.max_rows = place.max_rows;
  config.max_sequences = place.max_sequences;
  config.kv_type = place.kv_type;
  config.watch_costs = false;
  if (!backend) backend = create_cpu_backend(2);
  return std::make_shared<DraftModel>(std::move(backend), host, config);
}

std::vector<int32_t> some_tokens(std::mt19937_64& random, int count) {
  std::vector<int32_t> tokens(count);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % 97);
  return tokens;
}

Result answer_of(Engine& engine, const std::shared_ptr<Model>& model, RequestOptions options, DraftMethod method) {
  const auto sink = std::make_shared<Collector>();
  options.drafts = method;
  return sink->wait(engine.submit(model, options, sink));
}

RequestOptions plain(int tokens) {
  RequestOptions options;
  options.tokens = {3, 1, 4, 1, 5};
  options.max_tokens = tokens;
  options.draft_tokens = 7;
  options.logprobs = true;
  options.seed = 11;
  return options;
}

}  // namespace

TEST(what_is_kept_of_a_sequence_drafts_as_what_is_computed_anew) {
  // Sequences that go on as drafted, or otherwise, or both, by any number of tokens at a time; several at once.
  auto random = check::random(23);
  for (const int window : {0, 24}) {
    const auto host = tiny_model(random(), window);
    DraftPlace place;
    place.max_rows = 1 + static_cast<int>(random() % 90);
    place.home = window == 0 ? Home::streamed : Home::resident;
    const auto kept = draft_model(host, place), anew = draft_model(host);
    constexpr int kSequences = 5;
    std::vector<std::vector<int32_t>> tokens;
    std::vector<DraftState> states(kSequences);
    for (int s = 0; s < kSequences; s++) tokens.push_back(some_tokens(random, 1 + static_cast<int>(random() % 40)));
    int compared = 0;
    for (int round = 0; round < 60; round++) {
      std::vector<DraftRequest> requests;
      std::vector<int> whose;
      std::vector<LogitAdjustment> biased = {{7, 0, 0, 1.5f}, {30, 0, 0, -2.0f}};
      for (int s = 0; s < kSequences; s++) {
        if (random() % 3 == 0) continue;
        DraftRequest& request = requests.emplace_back();
        request.tokens = tokens[s];
        request.state = &states[s];
        request.count = static_cast<int>(random() % 6);
        request.choice.temperature = s % 2 == 0 ? 0.0f : 0.9f;
        request.choice.seed = static_cast<uint64_t>(s);
        request.choice.counter = static_cast<uint64_t>(tokens[s].size());
        if (s == 3) request.adjustments = biased;
        whose.push_back(s);
      }
      kept->draft(requests);
      for (size_t i = 0; i < requests.size(); i++) {
        CHECK(static_cast<int>(requests[i].drafts.size()) <= requests[i].count);
        DraftState fresh;
        DraftRequest alone = requests[i];
        alone.state = &fresh;
        alone.count = static_cast<int>(requests[i].drafts.size());
        if (alone.count > 0) {
          std::vector<int32_t> drafts;
          while (drafts.empty()) {  // a prompt of more rows than a pass has
            anew->draft(std::span(&alone, 1));
            drafts = alone.drafts;
          }
          CHECK(drafts == requests[i].drafts);
          compared++;
        }
        anew->forget(fresh);
        std::vector<int32_t>& own = tokens[whose[i]];
        const size_t right = random() % (requests[i].drafts.size() + 1);
        own.insert(own.end(), requests[i].drafts.begin(), requests[i].drafts.begin() + static_cast<ptrdiff_t>(right));
        own.push_back(static_cast<int32_t>(random() % 97));
        if (own.size() > kContext + 3 || random() % 20 == 0) {  // it ends, or rests
          kept->forget(states[whose[i]]);
          if (own.size() > kContext + 3) own = some_tokens(random, 3);
        }
      }
    }
    CHECK(compared > 60);
    for (DraftState& state : states) kept->forget(state);
    CHECK_EQ(kept->kv_blocks_used(), 0);
    CHECK_EQ(anew->kv_blocks_used(), 0);
  }
}

TEST(where_there_is_no_room_there_are_no_drafts) {
  auto random = check::random(29);
  const auto host = tiny_model(random());
  DraftPlace place;
  place.kv_blocks = 3;
  place.context = 40;
  const auto model = draft_model(host, place);
  std::vector<std::vector<int32_t>> tokens = {some_tokens(random, 30), some_tokens(random, 30),
                                              some_tokens(random, 41)};
  std::vector<DraftState> states(3);
  std::vector<DraftRequest> requests(3);
  for (int s = 0; s < 3; s++) requests[s].tokens = tokens[s], requests[s].state = &states[s], requests[s].count = 15;
  model->draft(requests);
  CHECK_EQ(requests[0].drafts.size(), 11u);  // the last of them follows position 39
  CHECK(requests[1].drafts.empty());         // no blocks are left
  CHECK(requests[2].drafts.empty());         // longer than its context
  model->forget(states[0]);
  model->draft(std::span(requests).subspan(1, 1));
  CHECK_EQ(requests[1].drafts.size(), 11u);
  model->forget(states[1]);
  CHECK_EQ(model->kv_blocks_used(), 0);
}

TEST(a_model_that_drafts_for_itself_is_always_right) {
  const auto host = tiny_model(check::seed() + 13);
  Engine engine;
  for (const float temperature : {0.0f, 0.9f}) {
    RequestOptions options = plain(41);
    options.temperature = temperature;
    options.top_k = 20;
    Placement placement;
    placement.draft_model = draft_model(host);
    const auto model = make_model(host, placement);
    engine.add(model);
    const Result alone = answer_of(engine, model, options, DraftMethod::off);
    const uint64_t before = model->counters().steps;
    const Result drafted = answer_of(engine, model, options, DraftMethod::model);
    check_same(drafted, alone);
    CHECK_EQ(drafted.accepted, drafted.drafted);
    CHECK_EQ(model->counters().steps - before, 1u + 5u);  // each eight tokens
    CHECK(model->counters().draft_passes > 0u);
    close_and_wait(engine, model);
  }
}

TEST(a_draft_model_is_asked_where_it_is_worth_its_passes) {
  const auto host = tiny_model(check::seed() + 17);
  Engine engine;
  const RequestOptions options = plain(100);
  for (const bool right : {true, false}) {
    DraftPlace place;
    Placement placement;
    placement.pass_costs = {1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7};
    const auto other = right ? host : tiny_model(check::seed() + 18);
    DraftModelConfig config;
    config.homes.assign(other->units().size(), Home::resident);
    config.context_length = kContext;
    config.kv_blocks = 64;
    config.max_rows = config.max_sequences = 8;
    config.watch_costs = false;
    config.pass_costs = {0.1};
    placement.draft_model = std::make_shared<DraftModel>(create_cpu_backend(1), other, config);
    const auto model = make_model(host, placement);
    engine.add(model);
    const Result alone = answer_of(engine, model, options, DraftMethod::off);
    const uint64_t before = model->counters().steps;
    const Result drafted = answer_of(engine, model, options, DraftMethod::automatic);
    check_same(drafted, alone);
    const uint64_t steps = model->counters().steps - before;
    CHECK(right ? steps < 30 : drafted.drafted < 20 && steps > 90);
    // The next sequence begins with what is known of others: where drafts are wrong, two looks at two drafts.
    const Result next = answer_of(engine, model, options, DraftMethod::automatic);
    check_same(next, alone);
    CHECK(right ? next.drafted > 70 : next.drafted <= 4);
    close_and_wait(engine, model);
  }
}

// A large model whose units have any home, its draft model and another model beside them, in an arena with room for a
// part: all take turns, drafts stand, and no bit changes.
TEST(a_draft_model_shares_the_arena_of_its_device) {
  const auto host = tiny_model(check::seed() + 19);
  size_t slabs = 0;
  for (const UnitLayout& unit : host->units()) slabs += unit.bytes;
  const RequestOptions options = plain(60);
  for (const Home home : {Home::shared, Home::streamed, Home::resident}) {
    for (const size_t room : {slabs / 2, 3 * slabs / 2, 3 * slabs}) {
      Engine engine;
      Placement placement;
      placement.layers = home;
      DraftPlace place;
      place.home = Home::shared;
      ModelConfig config = make_model(host, placement)->config();
      if (home == Home::shared) config.homes.assign(config.homes.size(), home);  // the head too
      config.ring_bytes = {slabs};
      config.arena_bytes = room;
      config.turn_ms = 1;
      config.draft_model = draft_model(host, place, create_cpu_backend(1));
      const auto drafting = std::make_shared<Model>(Engine::next_id(), create_cpu_backend(2), host, std::move(config));
      ModelConfig other_config = make_model(host, {})->config();
      other_config.homes.assign(other_config.homes.size(), Home::shared);
      other_config.arena_bytes = room;
      other_config.turn_ms = 1;
      other_config.ring_bytes = {slabs};
      const auto other = std::make_shared<Model>(Engine::next_id(), create_cpu_backend(2), host, other_config);
      CHECK(drafting->shares());
      engine.add(drafting);
      engine.add(other);
      const Result alone = answer_of(engine, drafting, options, DraftMethod::off);
      const auto sink = std::make_shared<Collector>();
      std::vector<std::pair<std::shared_ptr<Model>, uint64_t>> asked;
      for (int i = 0; i < 6; i++) {
        RequestOptions next = options;
        next.drafts = i < 4 ? DraftMethod::model : DraftMethod::off;
        const auto& model = i < 4 ? drafting : other;
        asked.push_back({model, engine.submit(model, next, sink)});
      }
      for (const auto& [model, id] : asked) {
        const Result result = sink->wait(id);
        check_same(result, alone);
        CHECK(model == other || result.accepted > 40);  // the same weights: all stand
      }
      CHECK(Arena::of("cpu").bytes() <= room);
      close_and_wait(engine, drafting);
      CHECK_EQ(answer_of(engine, other, options, DraftMethod::off).tokens, alone.tokens);
      close_and_wait(engine, other);
      CHECK_EQ(Arena::of("cpu").bytes(), 0u);
    }
  }
}

TEST(same_bits_with_and_without_a_draft_model_whatever_the_schedule) {
  auto random = check::random(31);
  const char* asked = std::getenv("MILLRACE_SCHEDULES");
  const int schedules = asked == nullptr ? 3 : std::atoi(asked);
  int drafted = 0, accepted = 0;
  for (int schedule = 0; schedule < schedules; schedule++) {
    const auto host = schedule % 2 == 0 ? tiny_model(random()) : tiny_model(random(), 20, true);
    Engine engine;
    std::vector<RequestOptions> requests;
    Placement plain_placement;
    plain_placement.kv_type = schedule % 2 == 0 ? KvType::f16 : KvType::q8;
    const auto plain_model = make_model(host, plain_placement);
    engine.add(plain_model);
    std::vector<Result> alone;
    for (int i = 0; i < 32; i++) {
      requests.push_back(request(random));
      requests.back().draft_tokens = static_cast<int>(random() % 9);
      requests.back().priority = static_cast<int>(random() % 3);
      alone.push_back(answer_of(engine, plain_model, requests.back(), DraftMethod::off));
    }
    close_and_wait(engine, plain_model);

    std::vector<Placement> placements(4);
    placements[1].layers = Home::streamed;
    placements[1].poison = true;
    placements[1].max_rows = 9;
    placements[1].max_logit_rows = 6;
    placements[2].kv_blocks = 12;  // sequences are preempted
    placements[2].pass_costs = {1, 1.2, 1.4, 1.5, 1.6, 1.6, 1.6, 1.6, 2.4};
    placements[3].kv_blocks = 12;
    placements[3].kv_swap_blocks = 0;  // and computed again
    placements[3].ahead = StepsAhead::always;
    for (Placement& placement : placements) {
      DraftPlace place;
      placement.kv_type = plain_placement.kv_type;
      place.kv_type = random() % 2 == 0 ? KvType::f16 : KvType::q8;
      const Home homes[] = {Home::streamed, Home::resident, Home::shared};
      place.home = homes[random() % 3];
      place.kv_blocks = random() % 2 == 0 ? 400 : 20;
      place.max_rows = 1 + static_cast<int>(random() % 64);
      place.context = random() % 2 == 0 ? kContext : 70;
      // Another model is right by chance alone.
      const auto own = draft_model(random() % 3 == 0 ? tiny_model(random()) : host, place);
      placement.draft_model = own;
      const auto model = make_model(host, placement);
      engine.add(model);
      const auto sink = std::make_shared<Collector>();
      std::vector<uint64_t> ids;
      for (RequestOptions options : requests) {
        options.drafts = static_cast<DraftMethod>(random() % 4);
        ids.push_back(engine.submit(model, options, sink));
      }
      const size_t cancelled = random() % ids.size();
      if (random() % 2 == 0) engine.cancel(model, ids[cancelled]);
      for (size_t i = 0; i < ids.size(); i++) {
        const Result result = sink->wait(ids[i]);
        if (result.finish != Finish::abort) check_same(result, alone[i]);
        drafted += result.drafted, accepted += result.accepted;
      }
      CHECK_EQ(model->counters().kv_blocks_used.load(), 0u);
      close_and_wait(engine, model);
    }
  }
  CHECK(accepted > 0 && accepted < drafted);
}

TEST(a_draft_model_that_fails_ends_what_runs_and_nothing_else) {
  const auto host = tiny_model(check::seed() + 19);
  Engine engine;
  Placement placement;
  placement.draft_model = draft_model(host, {}, std::make_unique<FaultyBackend>(3, code::kInternal));
  const auto model = make_model(host, placement);
  engine.add(model);
  const RequestOptions options = plain(30);
  const Result failed = answer_of(engine, model, options, DraftMethod::model);
  CHECK(failed.finish == Finish::error && failed.error_code == code::kInternal);
  const Result alone = answer_of(engine, model, options, DraftMethod::off);
  const Result drafted = answer_of(engine, model, options, DraftMethod::model);
  check_same(drafted, alone);
  CHECK(drafted.accepted > 0);
  close_and_wait(engine, model);
}
