// The next pass is launched before the tokens of the last one have been read: the same bits, whatever is asked for, and
// a stop that is seen late costs a row and nothing else.
#include <atomic>
#include <thread>

#include "check.h"
#include "engine/constraints.h"
#include "harness.h"

using namespace millrace;

namespace {

Placement ahead() {
  Placement placement;
  placement.ahead = StepsAhead::always;
  return placement;
}

RequestOptions greedy(int first, int prompt, int tokens) {
  RequestOptions options;
  for (int i = 0; i < prompt; i++) options.tokens.push_back((first + i * 7) % 97);
  options.max_tokens = tokens;
  options.logprobs = true;
  return options;
}

std::vector<Result> all_alone(Engine& engine, const std::shared_ptr<const HostModel>& host,
                              const std::vector<RequestOptions>& requests) {
  const auto model = make_model(host, {});
  engine.add(model);
  const auto sink = std::make_shared<Collector>();
  std::vector<Result> out;
  for (const RequestOptions& options : requests) out.push_back(sink->wait(engine.submit(model, options, sink)));
  CHECK_EQ(model->counters().steps_ahead.load(), 0u);
  close_and_wait(engine, model);
  return out;
}

// What of a step is left out: as if nothing held the pass behind the choice that it needs.
enum class Left : uint8_t { fed_tokens, counts, table_updates, masks };

// Leaves it out of the nth step that has any.
class Lacking final : public FaultyExecutor {
 public:
  Lacking(std::unique_ptr<Executor> inner, Left left, int64_t nth)
      : FaultyExecutor(std::move(inner), -1, "", -1), left_(left), nth_(nth) {}
  void begin(Stream& stream, const Step& step, StepOutput& output) override {
    Step own = step;
    const auto now = [&](bool any) { return any && seen_++ == nth_; };
    if (left_ == Left::fed_tokens && now(!own.token_from.empty())) own.token_from = {};
    if (left_ == Left::table_updates && now(!own.table_updates.empty())) own.table_updates = {};
    if (left_ == Left::counts && now(!own.logits.empty() && own.logits[0].counts)) {
      uncounted_.assign(own.logits.begin(), own.logits.end());
      uncounted_[0].counts = false;
      own.logits = uncounted_;
    }
    if (left_ == Left::masks && now(!own.masks.empty())) own.masks = open_masks_;
    FaultyExecutor::begin(stream, own, output);
  }

 private:
  static std::unique_ptr<TokenMask> open_mask() {
    auto mask = std::make_unique<TokenMask>();
    mask->set(std::make_shared<TokenMask::Words>(4, 0xffffffff));
    return mask;
  }

  Left left_;
  int64_t nth_;
  int64_t seen_ = 0;
  const std::unique_ptr<TokenMask> open_ = open_mask();
  const std::vector<const TokenMask*> open_masks_ = {open_.get()};
  std::vector<LogitRequest> uncounted_;
};

class LackingBackend final : public FaultyBackend {
 public:
  LackingBackend(Left left, int64_t nth) : FaultyBackend(-1, ""), left_(left), nth_(nth) {}
  std::unique_ptr<Executor> create_executor(const ExecutorConfig& config) override {
    return std::make_unique<Lacking>(FaultyBackend::create_executor(config), left_, nth_);
  }

 private:
  Left left_;
  int64_t nth_;
};

}  // namespace

TEST(same_bits_a_step_ahead) {
  auto random = check::random(51);
  for (const int window : {0, 24}) {
    for (const bool mixed : {false, true}) {
      if (window == 0 && mixed) continue;
      const auto host = tiny_model(check::seed() + 3, window, mixed);
      const auto constraint = in_turns();
      std::vector<RequestOptions> requests;
      for (int i = 0; i < 24; i++) {
        requests.push_back(request(random));
        if (i % 4 == 1) requests.back().constraint = constraint;
        if (i % 6 == 0) {
          requests.back().drafts = DraftMethod::ngram;
          requests.back().draft_tokens = 4;
        }
      }
      Engine engine;
      const std::vector<Result> alone = all_alone(engine, host, requests);
      Placement narrow = ahead();  // prompts in many chunks, beside rows that decode
      narrow.max_rows = 9;
      narrow.max_logit_rows = 6;
      narrow.threads = 3;
      Placement tight = ahead();  // sequences queue and are preempted
      tight.kv_blocks = 12;
      tight.windowed_kv_blocks = 12;
      Placement tighter = tight;  // and some computed again
      tighter.kv_swap_blocks = 3;
      tighter.prefix_reuse = false;
      Placement crammed = tight;  // penalties of so many tokens as no table holds
      crammed.logit_table_entries = 20;
      Placement spread = narrow;  // first the head where the embedding is, then elsewhere
      spread.devices = 2;
      Placement far = spread;
      far.devices = 3;
      for (const Placement& placement : {ahead(), narrow, tight, tighter, crammed, spread, far}) {
        const auto model = make_model(host, placement);
        engine.add(model);
        const auto sink = std::make_shared<Collector>();
        std::vector<uint64_t> ids;
        for (const RequestOptions& options : requests) ids.push_back(engine.submit(model, options, sink));
        for (size_t i = 0; i < ids.size(); i++) check_same(sink->wait(ids[i]), alone[i]);
        // One after the other too: every pass of an answer but the first begins before its token is known.
        for (size_t i = 0; i < 6; i++) check_same(sink->wait(engine.submit(model, requests[i], sink)), alone[i]);
        CHECK_EQ(sink->after_end(), 0);
        const bool waits = placement.logit_table_entries < kLogitTableEntries;
        CHECK(model->counters().steps_ahead > (waits ? 0u : 20u));
        close_and_wait(engine, model);
        CHECK_EQ(model->counters().kv_blocks_used.load(), 0u);
        CHECK_EQ(model->counters().saved_kv_bytes.load(), 0u);
        CHECK_EQ(model->counters().running.load(), 0u);
      }
    }
  }
}

// How long an answer may become is known early: no row too many. A stop token is not: one row.
TEST(a_stop_seen_late_costs_a_row) {
  const auto host = tiny_model(52);
  Engine engine;
  const auto sink = std::make_shared<Collector>();
  const RequestOptions whole = greedy(4, 20, 30);
  const Result expected = all_alone(engine, host, {whole}).front();
  REQUIRE(expected.tokens.size() == 30);
  RequestOptions stopped = whole;
  int at = 20;  // of a token that has not come before
  while (std::count(expected.tokens.begin(), expected.tokens.begin() + at, expected.tokens[at]) > 0) at--;
  stopped.stop_tokens = {expected.tokens[at]};
  REQUIRE(at >= 1);

  const auto model = make_model(host, ahead());
  engine.add(model);
  const ModelCounters& counters = model->counters();
  check_same(sink->wait(engine.submit(model, whole, sink)), expected);
  const auto rest = [&] {  // what is under way has been read
    std::atomic<bool> rests{false};
    engine.trace(
        model, "", [&] { rests = true; }, [](const Error& error) { throw error; });
    while (!rests) std::this_thread::yield();
  };
  rest();
  CHECK_EQ(counters.steps.load(), 30u);
  CHECK_EQ(counters.decode_rows.load(), 29u);
  CHECK_EQ(counters.steps_ahead.load(), 29u);
  const Result cut = sink->wait(engine.submit(model, stopped, sink));
  rest();
  CHECK(cut.finish == Finish::stop);
  CHECK(std::equal(cut.tokens.begin(), cut.tokens.end(), expected.tokens.begin()));
  CHECK_EQ(cut.tokens.size(), static_cast<size_t>(at));
  CHECK_EQ(counters.decode_rows.load(), 29u + static_cast<uint64_t>(at) + 1);
  CHECK_EQ(counters.kv_blocks_used.load(), 0u);
  // What the useless row has written nobody finds.
  check_same(sink->wait(engine.submit(model, whole, sink)), expected);
  close_and_wait(engine, model);
}

// Weights that are copied for every pass wait until it is known that somebody needs them.
TEST(streamed_models_take_no_step_ahead) {
  const auto host = tiny_model(53);
  Engine engine;
  const auto sink = std::make_shared<Collector>();
  RequestOptions options = greedy(1, 10, 20);
  const Result expected = all_alone(engine, host, {options}).front();
  Placement streamed = ahead();
  streamed.layers = Home::streamed;
  streamed.poison = true;
  Placement beside = ahead();
  beside.cpu_feed_forwards = true;
  for (const Placement& placement : {streamed, beside}) {
    const auto model = make_model(host, placement);
    engine.add(model);
    check_same(sink->wait(engine.submit(model, options, sink)), expected);
    CHECK_EQ(model->counters().steps_ahead.load(), 0u);
    CHECK_EQ(model->counters().steps.load(), 20u);
    close_and_wait(engine, model);
  }
}

// The device's own choice is what the next pass computes with: whichever pass is given another token, the answer shows
// it.
TEST(every_pass_needs_the_token_that_it_is_fed) {
  const auto host = tiny_model(54);
  Engine engine;
  const auto sink = std::make_shared<Collector>();
  const RequestOptions options = greedy(9, 12, 12);
  const Result expected = all_alone(engine, host, {options}).front();
  const ModelConfig config = make_model(host, ahead())->config();
  for (int nth = -1; nth < 11; nth++) {
    const auto model = std::make_shared<Model>(Engine::next_id(),
                                               std::make_unique<LackingBackend>(Left::fed_tokens, nth), host, config);
    engine.add(model);
    const Result result = sink->wait(engine.submit(model, options, sink));
    const bool same = result.tokens == expected.tokens && result.logprobs == expected.logprobs;
    CHECK_EQ(same, nth < 0 || expected.tokens[nth] == 0);
    close_and_wait(engine, model);
  }
}

// A head elsewhere: the device that embeds waits for its choice.
TEST(every_pass_needs_to_wait_for_the_head_of_another_device) {
  if (kRaceDetector) SKIP("the race that this test makes on purpose is what ThreadSanitizer reports");
  const auto host = tiny_model(59);
  Engine engine;
  const auto sink = std::make_shared<Collector>();
  const RequestOptions options = greedy(9, 12, 6);
  const Result expected = all_alone(engine, host, {options}).front();
  const auto same = [&](const Placement& placement) {
    const auto model = make_model(host, placement);
    engine.add(model);
    const Result result = sink->wait(engine.submit(model, options, sink));
    CHECK(model->counters().steps_ahead.load() == 5u);
    close_and_wait(engine, model);
    return result.tokens == expected.tokens && result.logprobs == expected.logprobs;
  };
  Placement far = ahead();
  far.devices = 3;
  CHECK(same(far));
  for (int64_t wait = 2; wait < 14; wait += 3) {  // a pass waits for the head, then twice for rows
    bool shows = false;
    for (int milliseconds = 1; milliseconds <= 16 && !shows; milliseconds *= 2) {
      Placement slow = far;
      slow.stream_hooks.before_compute = [=] { std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds)); };
      slow.skip_hop_wait = wait;
      shows = !same(slow);
    }
    CHECK(shows);
  }
}

// What the device counts by itself is what its next choices depend on. Biases order the tokens, and a penalty puts the
// one that has come behind its next: whichever choice is not counted comes twice.
TEST(every_choice_is_counted_where_the_next_one_finds_it) {
  const auto host = tiny_model(56);
  Engine engine;
  const auto sink = std::make_shared<Collector>();
  RequestOptions options = greedy(9, 12, 24);
  options.frequency_penalty = 1000.0f;
  for (int token = 0; token < 97; token++) {
    options.logit_bias.emplace_back(token, 50000.0f - 500.0f * static_cast<float>(token));
  }
  const Result expected = all_alone(engine, host, {options}).front();
  REQUIRE(expected.tokens.size() == 24);
  const ModelConfig config = make_model(host, ahead())->config();
  for (const Left left : {Left::counts, Left::table_updates}) {
    for (int nth = -1; nth < (left == Left::counts ? 23 : 1); nth++) {
      const auto model =
          std::make_shared<Model>(Engine::next_id(), std::make_unique<LackingBackend>(left, nth), host, config);
      engine.add(model);
      const Result result = sink->wait(engine.submit(model, options, sink));
      CHECK_EQ(result.tokens == expected.tokens, nth < 0);
      if (nth < 0) CHECK_EQ(model->counters().steps_ahead.load(), 23u);
      close_and_wait(engine, model);
    }
  }
}

// A pass that is launched before the last token is known takes the mask that the token leads to: whichever one it does
// not wait for, the answer shows it, since a bias has it choose what may not come.
TEST(every_choice_waits_for_its_mask) {
  if (kRaceDetector) SKIP("the race that this test makes on purpose is what ThreadSanitizer reports");
  const auto host = tiny_model(57);
  Engine engine;
  const auto sink = std::make_shared<Collector>();
  RequestOptions options = greedy(5, 12, 20);
  options.constraint = in_turns();
  options.logit_bias = {{96, 1000.0f}};
  const Result expected = all_alone(engine, host, {options}).front();
  REQUIRE(expected.tokens.size() >= 10);
  const ModelConfig config = make_model(host, ahead())->config();
  const int steps = static_cast<int>(expected.tokens.size());
  for (int nth = -1; nth < steps; nth++) {
    const auto model =
        std::make_shared<Model>(Engine::next_id(), std::make_unique<LackingBackend>(Left::masks, nth), host, config);
    engine.add(model);
    const Result result = sink->wait(engine.submit(model, options, sink));
    if (nth < 0) {
      check_same(result, expected);
      CHECK(model->counters().steps_ahead.load() >= static_cast<uint64_t>(steps - 1));
    } else {
      CHECK(result.finish == Finish::error);
      CHECK_EQ(result.error_code, std::string("INTERNAL"));
      CHECK(std::equal(result.tokens.begin(), result.tokens.end(), expected.tokens.begin()));
      CHECK_EQ(result.tokens.size(), static_cast<size_t>(nth));
    }
    close_and_wait(engine, model);
  }
}

// A pass that fails while another waits for a mask which its token would have led to.
TEST(a_pass_that_fails_leaves_none_waiting_for_its_mask) {
  const auto host = tiny_model(58);
  Engine engine;
  const auto sink = std::make_shared<Collector>();
  RequestOptions options = greedy(5, 12, 20);
  options.constraint = in_turns();
  const ModelConfig config = make_model(host, ahead())->config();
  for (int fails = 0; fails < 6; fails++) {
    const auto model = std::make_shared<Model>(Engine::next_id(),
                                               std::make_unique<FaultyBackend>(fails, code::kInternal), host, config);
    engine.add(model);
    CHECK(sink->wait(engine.submit(model, options, sink)).finish == Finish::error);
    CHECK(sink->wait(engine.submit(model, options, sink)).finish != Finish::error);
    close_and_wait(engine, model);
  }
}

// Requests that end, are cancelled or moved under while their rows are under way.
TEST(abuse_a_step_ahead) {
  const auto host = tiny_model(55);
  Engine engine;
  auto random = check::random(55);
  std::vector<RequestOptions> requests;
  for (int i = 0; i < 8; i++) {
    requests.push_back(request(random));
    if (i % 2 == 0) requests.back().constraint = in_turns();
  }
  const std::vector<Result> alone = all_alone(engine, host, requests);
  size_t largest = 0;
  for (const UnitLayout& unit : host->units()) largest = std::max(largest, unit.bytes);
  Placement placement = ahead();
  placement.kv_blocks = 14;
  placement.stream_hooks.before_compute = [] { std::this_thread::sleep_for(std::chrono::microseconds(20)); };
  const auto model = make_model(host, placement);
  engine.add(model);
  std::vector<std::thread> users;
  for (int u = 0; u < 4; u++) {
    users.emplace_back([&, u, seed = random()] {
      std::mt19937_64 own(seed);
      const auto sink = std::make_shared<Collector>();
      std::vector<std::pair<size_t, uint64_t>> kept;
      for (int i = 0; i < 12; i++) {
        const size_t which = own() % requests.size();
        const uint64_t id = engine.submit(model, requests[which], sink);
        if (own() % 2 == 0) {
          kept.emplace_back(which, id);
        } else {
          std::this_thread::sleep_for(std::chrono::microseconds(own() % 3000));
          engine.cancel(model, id);
        }
        if (u == 0) {
          std::vector<Home> homes;
          for (size_t unit = 0; unit < host->units().size(); unit++) {
            homes.push_back(i % 2 == 0 && own() % 2 == 0 ? Home::streamed : Home::resident);
          }
          engine.set_homes(
              model, homes, {2 * largest}, [](const std::vector<Home>&) {}, [](const Error& error) { throw error; });
        }
      }
      if (u == 3) return engine.detach(sink);
      for (const auto& [which, id] : kept) check_same(sink->wait(id), alone[which]);
      CHECK_EQ(sink->after_end(), 0);
    });
  }
  for (std::thread& user : users) user.join();
  close_and_wait(engine, model);
  CHECK(model->counters().steps_ahead > 0u);
  CHECK_EQ(model->counters().kv_blocks_used.load(), 0u);
  CHECK_EQ(model->counters().saved_kv_bytes.load(), 0u);
  CHECK_EQ(model->counters().running.load(), 0u);
}
