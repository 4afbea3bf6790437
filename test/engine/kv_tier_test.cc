// Texts in system RAM: what the cache has no room for comes back from there, bit for bit, as long as there is room.
#include <set>

#include "talks.h"

using namespace millrace;

namespace {

// Prompts of three whole blocks and a token.
std::vector<RequestOptions> prompts(std::mt19937_64& random, int count) {
  std::vector<RequestOptions> made;
  for (int i = 0; i < count; i++) made.push_back(turn(text(random, 49), 2));
  return made;
}

// A cache of one context, 10 blocks, where a prompt takes 4; of each class.
Placement small(int in_ram) {
  Placement placement;
  placement.kv_blocks = placement.windowed_kv_blocks = 10;
  placement.kv_swap_blocks = in_ram;
  return placement;
}

class Turns {
 public:
  Turns(Engine& engine, const std::shared_ptr<const HostModel>& host, const Placement& placement)
      : engine_(engine), anew_(engine, host, placement.kv_type), model_(make_model(host, placement)) {
    engine.add(model_);
  }
  ~Turns() { close_and_wait(engine_, model_); }
  // The tokens that it finds, after the check that it has the bits of one that finds none.
  uint64_t reused(const RequestOptions& options) {
    Result result;
    const uint64_t reused = reused_by(engine_, model_, options, result);
    check_same(result, anew_.answer(options));
    return reused;
  }
  const ModelCounters& counters() const { return model_->counters(); }
  size_t room() const { return model_->memory().kv_swap_bytes; }
  const std::shared_ptr<Model>& model() const { return model_; }

 private:
  Engine& engine_;
  Anew anew_;
  std::shared_ptr<Model> model_;
};

}  // namespace

TEST(what_gives_way_is_found_in_ram) {
  auto random = check::random();
  const std::vector<RequestOptions> asked = prompts(random, 8);
  Engine engine;
  for (const bool windows : {false, true}) {
    for (const int devices : {1, 2}) {
      for (const int in_ram : {0, 80}) {
        for (const KvType type : {KvType::f16, KvType::q8}) {
          Placement placement = small(in_ram);
          placement.devices = devices;
          placement.kv_type = type;
          Turns turns(engine, tiny_model(21, windows ? 40 : 0, windows), placement);
          for (const RequestOptions& options : asked) CHECK_EQ(turns.reused(options), 0u);
          uint64_t found = 0;
          for (const RequestOptions& options : asked) found += turns.reused(options);
          CHECK_EQ(found, in_ram > 0 ? 8 * 48u : 0u);
          CHECK_EQ(turns.counters().returned_tokens.load(), found);
          CHECK_EQ(turns.counters().tier_kv_bytes.load() > 0, in_ram > 0);
          CHECK(turns.counters().tier_kv_bytes.load() <= turns.room());
          CHECK_EQ(turns.counters().saved_kv_bytes.load(), 0u);
        }
      }
    }
  }
}

// A text of which the device still has the beginning: only the rest comes.
TEST(a_text_that_is_half_in_ram_comes_back_by_half) {
  auto random = check::random();
  const std::vector<RequestOptions> asked = prompts(random, 4);
  Engine engine;
  Placement placement = small(80);
  placement.kv_blocks = 11;  // three texts of three, so that the fourth, which runs in four, takes two of the first
  Turns turns(engine, tiny_model(22), placement);
  for (const RequestOptions& options : asked) turns.reused(options);
  CHECK_EQ(turns.reused(asked[3]), 48u);
  CHECK_EQ(turns.counters().returned_tokens.load(), 0u);
  CHECK_EQ(turns.reused(asked[0]), 48u);
  CHECK_EQ(turns.counters().returned_tokens.load(), 32u);
}

TEST(the_longest_in_ram_are_forgotten_first_and_never_more_is_there) {
  auto random = check::random();
  const std::vector<RequestOptions> asked = prompts(random, 6);
  Engine engine;
  Turns turns(engine, tiny_model(23), small(6));  // two texts, and three in the cache
  for (const RequestOptions& options : asked) turns.reused(options);
  CHECK_EQ(turns.counters().tier_kv_bytes.load(), turns.room());
  CHECK_EQ(turns.reused(asked[0]), 0u);
  // It took the places of the next one: those behind are there.
  for (const int i : {3, 4, 5}) CHECK_EQ(turns.reused(asked[i]), 48u);
  CHECK(turns.counters().tier_kv_bytes.load() <= turns.room());
}

// Whoever is pushed out comes before texts: as if there were none.
TEST(preempted_sequences_take_the_room_of_texts) {
  const auto host = tiny_model(24);
  auto random = check::random();
  Engine engine;
  Turns turns(engine, host, small(12));
  for (const RequestOptions& options : prompts(random, 8)) turns.reused(options);
  CHECK_EQ(turns.counters().tier_kv_bytes.load(), turns.room());
  Anew anew(engine, host);
  const auto sink = std::make_shared<Collector>();
  std::vector<std::pair<uint64_t, RequestOptions>> submitted;
  for (int i = 0; i < 3; i++) {
    const RequestOptions options = turn(text(random, 20), 60);
    submitted.emplace_back(engine.submit(turns.model(), options, sink), options);
  }
  for (const auto& [id, options] : submitted) check_same(sink->wait(id), anew.answer(options));
  CHECK(turns.counters().preemptions.load() > 0u);
  CHECK_EQ(turns.counters().recomputations.load(), 0u);
}

TEST(an_answer_is_found_in_ram_and_what_is_computed_anew_has_one_place) {
  const auto host = tiny_model(25);
  auto random = check::random();
  Engine engine;
  Turns turns(engine, host, small(80));
  RequestOptions first = turn(text(random, 20), 40);
  const auto sink = std::make_shared<Collector>();
  const Result answer = sink->wait(engine.submit(turns.model(), first, sink));
  for (const RequestOptions& options : prompts(random, 4)) turns.reused(options);
  const RequestOptions next = turn(joined(joined(first.tokens, answer.tokens), text(random, 9)), 3);
  CHECK_EQ(turns.reused(next), 48u);
  CHECK_EQ(turns.counters().returned_tokens.load(), 48u);
  // A score takes no prefix; what it computes is that of a text in RAM.
  const std::vector<RequestOptions> others = prompts(random, 4);
  for (const RequestOptions& options : others) turns.reused(options);
  const uint64_t before = turns.counters().tier_kv_bytes;
  RequestOptions score = others[0];
  score.kind = RequestKind::score;
  turns.reused(score);
  CHECK_EQ(turns.counters().tier_kv_bytes.load(), before);  // three out, three gone
  CHECK_EQ(turns.reused(others[0]), 48u);
  CHECK_EQ(turns.counters().returned_tokens.load(), 48u);
}

TEST(talks_have_the_same_bits_whatever_is_in_ram) {
  Engine engine;
  uint64_t returned = 0;
  for (int round = 0; round < 6; round++) {
    auto random = check::random(static_cast<uint64_t>(round) + 100);
    const bool windows = round % 3 != 0, mixed = round % 3 == 1;
    const auto host = tiny_model(random(), windows ? 40 : 0, mixed);
    const KvType kv_type = round % 2 == 0 ? KvType::f16 : KvType::q8;
    Anew anew(engine, host, kv_type);
    const std::vector<Asked> asked = talks(anew, random, 30);
    for (int crowd : {1, 3, 8}) {
      Placement placement = small(1 + static_cast<int>(random() % 60));
      placement.kv_type = kv_type;
      placement.kv_blocks += static_cast<int>(random() % 10);
      placement.max_rows = 8 + static_cast<int>(random() % 60);
      placement.devices = 1 + static_cast<int>(random() % 2);
      placement.layers = random() % 2 == 0 ? Home::streamed : Home::resident;
      placement.ahead = random() % 2 == 0 ? StepsAhead::always : StepsAhead::never;
      const int delay = static_cast<int>(random() % 3) * 50;
      placement.stream_hooks.before_copy = [=] { std::this_thread::sleep_for(std::chrono::microseconds(delay)); };
      const auto model = make_model(host, placement);
      engine.add(model);
      for (size_t at = 0; at < asked.size(); at += crowd) {
        const auto sink = std::make_shared<Collector>();
        std::vector<std::pair<uint64_t, const Asked*>> submitted;
        for (size_t i = at; i < std::min(asked.size(), at + crowd); i++) {
          submitted.emplace_back(engine.submit(model, asked[i].options, sink), &asked[i]);
          if (random() % 4 != 0) continue;
          RequestOptions left = asked[i].options;  // somebody who leaves early has the same text
          left.kind = RequestKind::generate;
          left.max_tokens = 100;
          const uint64_t id = engine.submit(model, left, sink);
          if (random() % 2 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(random() % 4));
          engine.cancel(model, id);
        }
        for (const auto& [id, one] : submitted) check_same(sink->wait(id), one->alone);
      }
      returned += model->counters().returned_tokens;
      close_and_wait(engine, model);
      CHECK_EQ(model->counters().kv_blocks_used.load(), 0u);
      CHECK_EQ(model->counters().saved_kv_bytes.load(), 0u);
      CHECK(model->counters().tier_kv_bytes.load() <= model->memory().kv_swap_bytes);
    }
  }
  CHECK(returned > 0);
}

// The weights of two models take turns in one arena; keys and values stay where they are.
TEST(a_turn_goes_on_after_another_model_was_served) {
  Engine engine;
  auto random = check::random();
  const std::shared_ptr<const HostModel> hosts[] = {tiny_model(26), tiny_model(27)};
  std::vector<std::shared_ptr<Model>> models;
  for (const auto& host : hosts) {
    Placement placement = small(80);
    placement.layers = Home::shared;
    ModelConfig config = make_model(host, placement)->config();
    config.homes.assign(config.homes.size(), Home::shared);
    for (const UnitLayout& unit : host->units()) {
      config.arena_bytes += unit.bytes;  // of one of them
      config.ring_bytes[0] = std::max(config.ring_bytes[0], unit.bytes);
    }
    models.push_back(std::make_shared<Model>(Engine::next_id(), create_cpu_backend(2), host, config));
    engine.add(models.back());
  }
  Anew first(engine, hosts[0]), second(engine, hosts[1]);
  std::vector<int32_t> tokens[] = {text(random, 60), text(random, 60)};
  for (int at = 0; at < 3; at++) {
    for (int m = 0; m < 2; m++) {
      const RequestOptions options = turn(tokens[m], 12);
      Result result;
      const uint64_t known = at == 0 ? 0 : whole_blocks(static_cast<int>(tokens[m].size()) - 6);
      CHECK_EQ(reused_by(engine, models[m], options, result), known);
      check_same(result, (m == 0 ? first : second).answer(options));
      tokens[m] = joined(joined(std::move(tokens[m]), result.tokens), text(random, 5));
    }
  }
  for (const auto& model : models) {
    CHECK(model->counters().switches.load() >= 2u);
    close_and_wait(engine, model);
  }
}

// A copy to or from system RAM that fails: whoever was in the pass fails, texts are forgotten, and nobody gets a wrong
// bit.
TEST(texts_survive_no_copy_that_fails) {
  const auto host = tiny_model(28);
  auto random = check::random();
  Engine engine;
  Anew anew(engine, host);
  const std::vector<RequestOptions> asked = prompts(random, 5);
  bool fired = true;
  int failed = 0;
  for (int nth = 1; fired; nth += 7) {
    std::atomic<int> left{nth};
    Placement placement = small(30);
    placement.stream_hooks.before_copy = [&] {
      if (--left == 0) throw std::bad_alloc();
    };
    const auto model = make_model(host, placement);
    engine.add(model);
    const auto sink = std::make_shared<Collector>();
    for (int i = 0; i < 20; i++) {
      const RequestOptions& options = asked[i % 5];
      const Result result = sink->wait(engine.submit(model, options, sink));
      if (result.finish == Finish::error) {
        CHECK_EQ(result.error_code, std::string(code::kOutOfMemory));
        failed++;
      } else {
        check_same(result, anew.answer(options));
      }
    }
    fired = left <= 0;
    close_and_wait(engine, model);
    CHECK_EQ(model->counters().kv_blocks_used.load(), 0u);
  }
  CHECK(failed > 1);
}

// A block whose copy to system RAM is under way is given to somebody new; what comes from there is computed with; and
// it comes into a block that a pass under way still writes to.
TEST(passes_need_every_wait_for_texts) {
  if (kRaceDetector) SKIP("the race that this test makes on purpose is what ThreadSanitizer reports");
  const auto host = tiny_model(29);
  auto random = check::random();
  Engine engine;
  Anew anew(engine, host);
  std::vector<Asked> asked;
  for (int i = 0; i < 4; i++) {
    RequestOptions options = turn(text(random, 40), 40);
    const Result whole = anew.answer(options);
    options.stop_tokens = {whole.tokens[20]};  // met one step late
    asked.push_back({options, anew.answer(options)});
  }
  const RequestOptions brief = turn(text(random, 10), 1);  // leaves a block that is free
  const auto same = [&](const KvHooks& hooks, int copy_ms, int compute_us, int free_blocks) {
    Placement placement = small(80);
    placement.kv_hooks = hooks;
    placement.ahead = StepsAhead::always;
    placement.stream_hooks.before_copy = [=] { std::this_thread::sleep_for(std::chrono::milliseconds(copy_ms)); };
    placement.stream_hooks.before_compute = [=] { std::this_thread::sleep_for(std::chrono::microseconds(compute_us)); };
    const auto model = make_model(host, placement);
    engine.add(model);
    const auto sink = std::make_shared<Collector>();
    bool equal = true;
    for (int i = 0; i < 12; i += 2) {
      std::vector<uint64_t> briefs;
      for (int k = 0; k < free_blocks; k++) briefs.push_back(engine.submit(model, brief, sink));
      for (const uint64_t id : briefs) sink->wait(id);
      // Two at a time: the next is admitted while a pass of those is under way.
      const Asked& one = asked[i % 4];
      const Asked& other = asked[(i + 1) % 4];
      const uint64_t ids[] = {engine.submit(model, one.options, sink), engine.submit(model, other.options, sink)};
      const Result results[] = {sink->wait(ids[0]), sink->wait(ids[1])};
      equal = equal && results[0].tokens == one.alone.tokens && results[0].logprobs == one.alone.logprobs &&
              results[1].tokens == other.alone.tokens && results[1].logprobs == other.alone.logprobs;
    }
    CHECK(model->counters().returned_tokens.load() > 0u);
    close_and_wait(engine, model);
    return equal;
  };
  CHECK(same({}, 1, 0, 8));
  CHECK(same({}, 0, 200, 0));
  const auto shows = [&](int64_t KvHooks::*wait, int copy_ms, int compute_us, int free_blocks) {
    for (int64_t nth = 0; nth < 8; nth++) {
      KvHooks hooks;
      hooks.*wait = nth;
      if (!same(hooks, copy_ms, compute_us, free_blocks)) return true;
    }
    return false;
  };
  CHECK(shows(&KvHooks::skip_reuse_wait, 2, 0, 8));
  CHECK(shows(&KvHooks::skip_arrival_wait, 2, 0, 8));
  CHECK(shows(&KvHooks::skip_handed_wait, 0, 200, 0));
}
