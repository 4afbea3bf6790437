// Drafts beside others: a model whose draft model is out of the arena, a crowd without a row to spare, a sequence that
// is computed again; and what an arena gives up first.
#include <algorithm>

#include "engine/engine.h"
#include "harness.h"
#include "stream/arena.h"

using namespace millrace;

namespace {

Result answer_of(Engine& engine, const std::shared_ptr<Model>& model, RequestOptions options, DraftMethod method) {
  const auto sink = std::make_shared<Collector>();
  options.drafts = method;
  return sink->wait(engine.submit(model, options, sink));
}

RequestOptions plain(int tokens, int prompt = 5) {
  RequestOptions options;
  for (int i = 0; i < prompt; i++) options.tokens.push_back((3 + 7 * i) % 97);
  options.max_tokens = tokens;
  options.draft_tokens = 7;
  options.logprobs = true;
  options.seed = 11;
  return options;
}

std::shared_ptr<DraftModel> draft_of(const std::shared_ptr<const HostModel>& host, Home home,
                                     std::vector<double> costs = {}, CpuStreamHooks hooks = {}, bool watch = false) {
  DraftModelConfig config;
  size_t slabs = 0;
  for (const UnitLayout& unit : host->units()) slabs += unit.bytes;
  config.homes.assign(host->units().size(), home);
  config.ring_bytes = slabs;
  config.context_length = kContext;
  config.kv_blocks = 400;
  config.max_rows = 64;
  config.max_sequences = 24;
  config.watch_costs = watch;
  config.pass_costs = std::move(costs);
  return std::make_shared<DraftModel>(create_cpu_backend(1, std::move(hooks)), host, config);
}

}  // namespace

// Its pass has no decode rows, and what it says has been foreseen: what a pass of none costs nobody knows.
TEST(a_sequence_that_is_computed_again_alone_goes_on) {
  const auto host = tiny_model(check::seed() + 3);
  Engine engine;
  const auto alone_model = make_model(host, {});
  engine.add(alone_model);
  const Result a = answer_of(engine, alone_model, plain(80, 50), DraftMethod::off);
  close_and_wait(engine, alone_model);
  Placement placement;
  placement.kv_blocks = 12;
  placement.kv_swap_blocks = 0;
  placement.prefix_reuse = false;
  placement.ahead = StepsAhead::always;
  placement.pass_costs = {1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7};
  placement.draft = [&](const Sequence& sequence, int count, std::vector<int32_t>& drafts) {
    for (int i = sequence.generated(); i < static_cast<int>(a.tokens.size()) && count-- > 0; i++) {
      drafts.push_back(a.tokens[i]);
    }
  };
  const auto model = make_model(host, placement);
  engine.add(model);
  const auto sink = std::make_shared<Collector>();
  std::vector<uint64_t> ids;
  for (int i = 0; i < 2; i++) {
    RequestOptions options = plain(80, 50);
    options.drafts = DraftMethod::automatic;
    ids.push_back(engine.submit(model, options, sink));
  }
  for (const uint64_t id : ids) check_same(sink->wait(id), a);
  CHECK(model->counters().recomputations.load() > 0u);
  close_and_wait(engine, model);
}

TEST(a_full_crowd_with_a_draft_model_takes_steps_ahead) {
  const auto host = tiny_model(check::seed() + 5);
  Engine engine;
  for (const DraftMethod method : {DraftMethod::off, DraftMethod::automatic}) {
    Placement placement;
    placement.max_logit_rows = 4;  // as many as run: no row is left for a draft
    placement.ahead = StepsAhead::always;
    placement.pass_costs = {1, 2, 3, 4};
    placement.draft_model = draft_of(tiny_model(check::seed() + 6), Home::resident, {1});
    const auto model = make_model(host, placement);
    engine.add(model);
    const auto sink = std::make_shared<Collector>();
    std::vector<uint64_t> ids;
    for (int i = 0; i < 4; i++) {
      RequestOptions options = plain(140);
      options.drafts = method;
      ids.push_back(engine.submit(model, options, sink));
    }
    for (const uint64_t id : ids) sink->wait(id);
    CHECK(model->counters().steps_ahead.load() * 2 > model->counters().steps.load());
    close_and_wait(engine, model);
  }
}

TEST(a_resident_model_whose_draft_model_is_out_waits_for_nobody) {
  const auto host = tiny_model(check::seed() + 9);
  size_t slabs = 0;
  for (const UnitLayout& unit : host->units()) slabs += unit.bytes;
  for (const DraftMethod method : {DraftMethod::off, DraftMethod::ngram, DraftMethod::automatic}) {
    Engine engine;
    ModelConfig other_config = make_model(host, {})->config();
    other_config.homes.assign(other_config.homes.size(), Home::shared);
    other_config.arena_bytes = slabs;
    other_config.ring_bytes = {slabs};
    other_config.turn_ms = 60'000;
    const auto other =
        std::make_shared<Model>(Engine::next_id(), create_cpu_backend(2, unhurried()), host, other_config);
    engine.add(other);
    Placement placement;
    placement.draft_model = draft_of(host, Home::shared);
    const auto drafting = make_model(host, placement);
    engine.add(drafting);
    const auto sink = std::make_shared<Collector>();
    RequestOptions lasting = plain(140);
    const uint64_t theirs = engine.submit(other, lasting, sink);
    while (sink->tokens_of(theirs) < 3) std::this_thread::yield();
    RequestOptions options = plain(4);
    options.drafts = method;
    sink->wait(engine.submit(drafting, options, sink));
    CHECK(!sink->ended(theirs));
    engine.cancel(other, theirs);
    sink->wait(theirs);
    close_and_wait(engine, drafting);
    close_and_wait(engine, other);
  }
}

TEST(what_is_free_goes_before_what_is_used) {
  struct Rests : Arena::Tenant {
    void evicted(int) override { evictions++; }
    int evictions = 0;
  };
  const auto backend = create_cpu_backend(1);
  Arena arena;
  Rests gone, one, two;
  for (int tenant = 0; tenant < 3; tenant++) arena.join();
  arena.set_limit(6000);
  Arena::Block* left = arena.take(*backend, 3000, gone, 0);
  arena.give_back(*left);
  for (int unit = 0; unit < 3; unit++) CHECK(arena.take(*backend, 1000, one, unit) != nullptr);
  for (int unit = 0; unit < 3; unit++) CHECK(arena.take(*backend, 1000, two, unit) != nullptr);
  CHECK_EQ(one.evictions, 0);
  CHECK_EQ(arena.evictions(), 0u);
}
