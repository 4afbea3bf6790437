// The engine on the CPU twin with a tiny model: the bit promises (a request alone or in a crowd, resident or streamed,
// any chunking), the life of requests, and the whole machinery under ThreadSanitizer.
#include "engine/engine.h"

#include <unistd.h>

#include <condition_variable>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <map>
#include <thread>

#include "backend/cpu/cpu_backend.h"
#include "backend/sample.h"
#include "backend/sample_arithmetic.h"
#include "check.h"
#include "core/error.h"
#include "harness.h"

using namespace millrace;

// Alone and resident is the reference. A crowd, other row budgets and threads, streamed, mixed and poisoned runs must
// give the same bits: tokens, log-probabilities and logits.
TEST(same_bits_alone_or_in_a_crowd_resident_or_streamed) {
  auto random = check::random();
  const auto host = tiny_model(check::seed());
  std::vector<RequestOptions> requests;
  for (int i = 0; i < 24; i++) requests.push_back(request(random));

  Engine engine;
  std::vector<Result> alone;
  {
    const auto model = make_model(host, {});
    engine.add(model);
    const auto sink = std::make_shared<Collector>();
    for (const RequestOptions& options : requests) {
      alone.push_back(sink->wait(engine.submit(model, options, sink)));
      CHECK(alone.back().finish == Finish::length || alone.back().finish == Finish::stop);
    }
    close_and_wait(engine, model);
  }
  Placement crowd;
  Placement streamed;
  streamed.layers = Home::streamed;
  streamed.max_rows = 7;
  streamed.max_logit_rows = 5;
  streamed.threads = 4;
  streamed.poison = true;
  Placement mixed;
  mixed.layers = Home::streamed;
  mixed.mixed = true;
  mixed.head_streamed = true;
  mixed.max_rows = 33;
  mixed.threads = 3;
  mixed.kv_blocks = 12;  // a fifth of what the crowd needs: sequences queue and are preempted
  Placement shared;      // by a device, its ring and the CPU
  shared.layers = Home::streamed;
  shared.cpu_feed_forwards = true;
  shared.max_rows = 29;
  shared.poison = true;
  Placement halves = shared;
  halves.layers = Home::resident;
  halves.max_logit_rows = 6;
  for (const Placement& placement : {crowd, streamed, mixed, shared, halves}) {
    const auto model = make_model(host, placement);
    engine.add(model);
    const auto sink = std::make_shared<Collector>();
    std::vector<uint64_t> ids;
    for (const RequestOptions& options : requests) ids.push_back(engine.submit(model, options, sink));
    for (size_t i = 0; i < ids.size(); i++) check_same(sink->wait(ids[i]), alone[i]);
    CHECK_EQ(sink->after_end(), 0);
    const ModelCounters& counters = model->counters();
    size_t slabs = 0;
    for (size_t unit = 0; unit < host->units().size(); unit++) {
      if (model->config().homes[unit] == Home::streamed) slabs += host->units()[unit].bytes;
    }
    if (placement.cpu_feed_forwards) {
      CHECK(counters.hops > 100u);
      CHECK(counters.copied_bytes - counters.prefetched_bytes - counters.dropped_bytes > slabs * counters.steps);
    } else {
      CHECK_EQ(counters.copied_bytes - counters.prefetched_bytes, slabs * counters.steps);
    }
    CHECK_EQ(counters.kv_blocks_used.load(), 0u);
    CHECK_EQ(counters.saved_kv_bytes.load(), 0u);
    close_and_wait(engine, model);
  }
}

// The same seed gives the same text alone and among 31 others, with every option of sampling at work.
TEST(a_seed_gives_the_same_text_alone_and_in_a_crowd_of_32) {
  auto random = check::random(32);
  const auto host = tiny_model(17);
  Engine engine;
  Placement roomy;
  roomy.max_logit_rows = 32;
  roomy.max_rows = 64;
  roomy.kv_blocks = 320;
  const auto model = make_model(host, roomy);
  engine.add(model);
  const auto sink = std::make_shared<Collector>();
  std::vector<RequestOptions> requests;
  for (int i = 0; i < 32; i++) {
    RequestOptions options;
    for (int t = 0; t < 3 + i; t++) options.tokens.push_back(static_cast<int32_t>(random() % 97));
    options.max_tokens = 60;
    options.logprobs = true;
    options.temperature = 1.2f;
    options.seed = 7;
    options.repetition_penalty = 1.2f;
    options.presence_penalty = 0.3f;
    options.frequency_penalty = 0.2f;
    options.typical_p = 0.9f;
    options.logit_bias = {{i, 1.5f}};
    options.top_logprobs = 4;
    requests.push_back(options);
  }
  std::vector<uint64_t> ids;
  for (const RequestOptions& options : requests) ids.push_back(engine.submit(model, options, sink));
  std::vector<Result> crowd;
  for (const uint64_t id : ids) crowd.push_back(sink->wait(id));
  for (size_t i = 0; i < requests.size(); i++) {
    check_same(sink->wait(engine.submit(model, requests[i], sink)), crowd[i]);
    CHECK_EQ(crowd[i].top_tokens.size(), 4 * crowd[i].tokens.size());
  }
  close_and_wait(engine, model);
}

// Greedy choices with penalties, repeated by hand from the logits that score() gives of the same text.
TEST(penalties_count_prompt_and_answer) {
  const auto host = tiny_model(18);
  Engine engine;
  const auto model = make_model(host, {});
  engine.add(model);
  const auto sink = std::make_shared<Collector>();
  RequestOptions options;
  options.tokens = {3, 14, 15, 92, 65, 35, 14};
  options.max_tokens = 80;
  options.repetition_penalty = 1.15f;
  options.presence_penalty = 0.05f;
  options.frequency_penalty = 0.02f;
  options.logit_bias = {{20, 0.3f}, {14, -0.1f}};
  options.top_logprobs = 3;
  options.logprobs = true;
  const Result answer = sink->wait(engine.submit(model, options, sink));
  REQUIRE(answer.tokens.size() == 80);
  RequestOptions score;
  score.kind = RequestKind::score;
  score.logits = true;
  score.tokens = options.tokens;
  score.tokens.insert(score.tokens.end(), answer.tokens.begin(), answer.tokens.end());
  const Result scored = sink->wait(engine.submit(model, score, sink));
  std::vector<int> seen(97, 0), generated(97, 0);
  for (const int32_t token : options.tokens) seen[token] = 1;
  SampleScratch scratch;
  int differs = 0;  // from the choice without penalties
  for (size_t i = 0; i < answer.tokens.size(); i++) {
    const std::span<const float> row(scored.logits.data() + (options.tokens.size() - 1 + i) * 97, 97);
    int best = -1;
    float highest = 0;
    for (int t = 0; t < 97; t++) {
      const float bias = t == 20 ? 0.3f : t == 14 ? -0.1f : 0.0f;
      const float logit = sample_adjusted(row[t], seen[t] != 0, generated[t], bias, 1.15f, 0.05f, 0.02f);
      if (best < 0 || logit > highest) {
        best = t;
        highest = logit;
      }
    }
    CHECK_EQ(answer.tokens[i], best);
    differs += best != sample_token(row, {}, scratch);
    std::vector<int32_t> top(3);
    std::vector<float> logprobs(3);
    top_log_probabilities(row, top, logprobs, scratch);
    CHECK(std::equal(top.begin(), top.end(), answer.top_tokens.begin() + 3 * i));
    CHECK(std::equal(logprobs.begin(), logprobs.end(), answer.top_logprobs.begin() + 3 * i));
    CHECK_EQ(answer.logprobs[i], log_probability(row, best));
    seen[best] = 1;
    generated[best]++;
  }
  CHECK(differs > 10);

  options.logit_bias.clear();
  for (int32_t t = 0; t < 97; t++) {
    if (t != 42) options.logit_bias.emplace_back(t, -std::numeric_limits<float>::infinity());
  }
  CHECK(sink->wait(engine.submit(model, options, sink)).tokens == std::vector<int32_t>(80, 42));
  options.logit_bias.emplace_back(42, -std::numeric_limits<float>::infinity());
  // None is left: the request is to blame, whatever else it asks for, and its neighbours are not.
  RequestOptions neighbour = options;
  neighbour.logit_bias.clear();
  const Result expected = sink->wait(engine.submit(model, neighbour, sink));
  for (const float temperature : {0.0f, 0.8f}) {
    options.temperature = temperature;
    options.top_k = temperature > 0 ? 5 : 0;
    options.typical_p = temperature > 0 ? 0.9f : 1.0f;
    const uint64_t ids[] = {engine.submit(model, neighbour, sink), engine.submit(model, options, sink),
                            engine.submit(model, neighbour, sink)};
    const Result refused = sink->wait(ids[1]);
    CHECK(refused.finish == Finish::error);
    CHECK_EQ(refused.error_code, std::string(code::kInvalidArgument));
    CHECK(refused.error_message.find("logitBias forbids every token") != std::string::npos);
    CHECK(!refused.error_remedy.empty());
    check_same(sink->wait(ids[0]), expected);
    check_same(sink->wait(ids[2]), expected);
  }
  CHECK_EQ(model->counters().kv_blocks_used.load(), 0u);
  close_and_wait(engine, model);
}

TEST(an_observer_is_told_of_every_step) {
  const auto host = tiny_model(19);
  Engine engine;
  const auto model = make_model(host, {});
  engine.add(model);
  const auto sink = std::make_shared<Collector>();
  RequestOptions options;
  options.tokens = {1, 2, 3};
  options.max_tokens = 10;
  sink->wait(engine.submit(model, options, sink));
  CHECK(sink->steps().empty());
  engine.observe(model, sink);
  sink->wait(engine.submit(model, options, sink));
  engine.observe(model, nullptr);
  sink->wait(engine.submit(model, options, sink));
  const std::vector<StepEvent> steps = sink->steps();
  REQUIRE(steps.size() == 10);
  CHECK_EQ(steps[0].rows, 3);
  CHECK_EQ(steps[0].decode_rows, 0);
  CHECK_EQ(steps[9].decode_rows, 1);
  CHECK_EQ(steps[9].model, model->id());
  close_and_wait(engine, model);
}

// Four sequences that grow to nine blocks each in a pool of twelve: they push each other out, come back, and give the
// bits that they give alone.
TEST(preempted_sequences_come_back_as_they_were) {
  const auto host = tiny_model(16);
  Engine engine;
  Placement small;
  small.kv_blocks = 12;
  small.prefix_reuse = false;
  const auto roomy = make_model(host, {});
  const auto tight = make_model(host, small);
  engine.add(roomy);
  engine.add(tight);
  const auto sink = std::make_shared<Collector>();
  std::vector<RequestOptions> requests(4);
  std::vector<uint64_t> ids;
  for (int i = 0; i < 4; i++) {
    for (int t = 0; t < 40; t++) requests[i].tokens.push_back((t * 11 + i * 29) % 97);
    requests[i].max_tokens = 100;
    requests[i].logprobs = true;
    requests[i].temperature = 0.7f;
    requests[i].seed = i;
    ids.push_back(engine.submit(tight, requests[i], sink));
  }
  for (int i = 0; i < 4; i++) check_same(sink->wait(engine.submit(roomy, requests[i], sink)), sink->wait(ids[i]));
  CHECK(tight->counters().preemptions.load() > 0u);
  CHECK_EQ(roomy->counters().preemptions.load(), 0u);
  close_and_wait(engine, roomy);
  close_and_wait(engine, tight);
  CHECK_EQ(tight->counters().saved_kv_bytes.load(), 0u);
}

// Of 8 bits they are not those of 16, and take what the layout says.
TEST(how_keys_and_values_are_kept_is_the_models_own) {
  const auto host = tiny_model(16);
  Engine engine;
  std::vector<std::shared_ptr<Model>> models;
  std::vector<Result> scores;
  for (const KvType type : {KvType::f16, KvType::q8}) {
    Placement placement;
    placement.kv_type = type;
    models.push_back(make_model(host, placement));
    engine.add(models.back());
    RequestOptions options;
    for (int t = 0; t < 60; t++) options.tokens.push_back((t * 11) % 97);
    options.kind = RequestKind::score;
    options.logits = true;
    const auto sink = std::make_shared<Collector>();
    scores.push_back(sink->wait(engine.submit(models.back(), options, sink)));
    CHECK_EQ(models.back()->memory().kv_bytes, placement.kv_blocks * 3 * 2 * 2 * kv_part_bytes(type, 16));
  }
  double difference = 0, most = 0;
  for (size_t i = 0; i < scores[0].logits.size(); i++) {
    difference = std::max(difference, std::abs(static_cast<double>(scores[0].logits[i]) - scores[1].logits[i]));
    most = std::max(most, std::abs(static_cast<double>(scores[0].logits[i])));
  }
  CHECK(difference > 0 && difference < 0.02 * most);
  for (const auto& model : models) close_and_wait(engine, model);
}

// A row of a model with a sliding window sees two or three blocks; the ones behind are given back as it moves, so that
// a pool of sixteen holds four sequences that would have nine blocks each, and prompts longer than the pool has room
// for.
TEST(blocks_behind_the_window_serve_others) {
  constexpr int kWindow = 24;
  const auto host = tiny_model(21, kWindow);
  Engine engine;
  const auto sink = std::make_shared<Collector>();
  std::vector<RequestOptions> requests(6);
  for (int i = 0; i < 6; i++) {
    const int prompt = i < 4 ? 40 : 140;
    for (int t = 0; t < prompt; t++) requests[i].tokens.push_back((t * 11 + i * 29) % 97);
    requests[i].max_tokens = i < 4 ? 100 : 15;
    requests[i].logprobs = true;
    requests[i].temperature = 0.7f;
    requests[i].seed = i;
  }
  Placement roomy;
  roomy.max_rows = kContext;  // a prompt in one chunk
  roomy.prefix_reuse = false;
  const auto alone = make_model(host, roomy);
  engine.add(alone);
  std::vector<Result> expected;
  for (const RequestOptions& options : requests) {
    expected.push_back(sink->wait(engine.submit(alone, options, sink)));
    // What decoding computed while blocks were dropped is what one chunk computes that has them all.
    RequestOptions score;
    score.kind = RequestKind::score;
    score.tokens = options.tokens;
    score.tokens.insert(score.tokens.end(), expected.back().tokens.begin(), expected.back().tokens.end());
    Placement whole = roomy;
    whole.max_logit_rows = kContext;
    const auto model = make_model(host, whole);
    engine.add(model);
    const Result scored = sink->wait(engine.submit(model, score, sink));
    const auto& answer = expected.back().logprobs;
    REQUIRE(scored.logprobs.size() == options.tokens.size() - 1 + answer.size());
    CHECK(std::memcmp(scored.logprobs.data() + options.tokens.size() - 1, answer.data(), answer.size() * 4) == 0);
    CHECK_EQ(model->counters().steps.load(), 1u);
    close_and_wait(engine, model);
  }
  close_and_wait(engine, alone);
  for (const bool prefix_reuse : {false, true}) {
    for (const int blocks : {16, 10, 80}) {
      Placement tight;
      tight.kv_blocks = blocks;
      tight.max_rows = 16;
      tight.prefix_reuse = prefix_reuse;
      const auto model = make_model(host, tight);
      engine.add(model);
      const auto watch = std::make_shared<Collector>();
      engine.observe(model, watch);
      const auto run = [&](size_t begin, size_t end) {
        std::vector<uint64_t> ids;
        for (size_t i = begin; i < end; i++) ids.push_back(engine.submit(model, requests[i], sink));
        for (size_t i = begin; i < end; i++) check_same(sink->wait(ids[i - begin]), expected[i]);
      };
      run(0, 4);
      if (blocks == 16) {
        // All four decode to their ends side by side. Each would have nine blocks by then.
        CHECK_EQ(model->counters().preemptions.load(), 0u);
        int most = 0;
        for (const StepEvent& step : watch->steps()) most = std::max(most, step.decode_rows);
        CHECK_EQ(most, 4);
      }
      run(4, 6);
      run(0, 6);  // a crowd of both kinds; with reuse, of texts seen before
      // Where there is room, what was dropped can be found until it is overwritten: all full blocks of the prompts.
      if (blocks == 80) CHECK_EQ(model->counters().reused_tokens.load(), prefix_reuse ? 4 * 32u + 2 * 128u : 0u);
      CHECK_EQ(model->counters().kv_blocks_used.load(), 0u);
      CHECK_EQ(model->counters().saved_kv_bytes.load(), 0u);
      close_and_wait(engine, model);
    }
  }
}

// Layers with a window keep it alone, those without keep all, and nobody sees the difference: whatever the chunks, the
// neighbours, preemption and what the cache remembers.
TEST(layers_keep_what_their_rows_see) {
  const auto host = tiny_model(22, 24, true);
  Engine engine;
  const auto sink = std::make_shared<Collector>();
  std::vector<RequestOptions> requests(6);
  for (int i = 0; i < 6; i++) {
    for (int t = 0; t < (i < 4 ? 40 : 120); t++) requests[i].tokens.push_back((t * 13 + i % 3 * 31) % 97);
    requests[i].max_tokens = i < 4 ? 60 : 15;
    requests[i].logprobs = true;
    requests[i].temperature = 0.7f;
    requests[i].seed = i;
  }
  Placement roomy;
  roomy.max_rows = kContext;
  roomy.prefix_reuse = false;
  const auto alone = make_model(host, roomy);
  engine.add(alone);
  std::vector<Result> expected;
  for (const RequestOptions& options : requests) expected.push_back(sink->wait(engine.submit(alone, options, sink)));
  close_and_wait(engine, alone);
  for (const bool prefix_reuse : {false, true}) {
    for (const auto& [blocks, windowed] : {std::pair{40, 16}, {14, 16}, {40, 6}, {80, 80}}) {
      Placement tight;
      tight.kv_blocks = blocks;
      tight.windowed_kv_blocks = windowed;
      tight.max_rows = 16;
      tight.prefix_reuse = prefix_reuse;
      const auto model = make_model(host, tight);
      engine.add(model);
      for (int round = 0; round < 2; round++) {
        std::vector<uint64_t> ids;
        for (const RequestOptions& options : requests) ids.push_back(engine.submit(model, options, sink));
        for (size_t i = 0; i < requests.size(); i++) check_same(sink->wait(ids[i]), expected[i]);
      }
      if (prefix_reuse && windowed == 80) CHECK(model->counters().reused_tokens.load() > 0u);
      if (!prefix_reuse) CHECK_EQ(model->counters().reused_tokens.load(), 0u);
      CHECK_EQ(model->counters().kv_blocks_used.load(), 0u);
      CHECK_EQ(model->counters().saved_kv_bytes.load(), 0u);
      close_and_wait(engine, model);
    }
  }
  Placement small;
  small.windowed_kv_blocks = 4;  // fewer than one sequence needs
  CHECK_THROWS_CODE(make_model(host, small), code::kInvalidArgument);
}

// A text that begins like an earlier one is not computed again, and gives the same bits.
TEST(shared_prefixes_are_computed_once) {
  const auto host = tiny_model(8);
  Engine engine;
  Placement without;
  without.prefix_reuse = false;
  const auto cold = make_model(host, without);
  const auto warm = make_model(host, {});
  engine.add(cold);
  engine.add(warm);
  const auto sink = std::make_shared<Collector>();
  RequestOptions first;
  for (int i = 0; i < 50; i++) first.tokens.push_back(i * 7 % 97);
  first.max_tokens = 30;
  first.logprobs = true;
  const Result answer = sink->wait(engine.submit(warm, first, sink));
  CHECK_EQ(warm->counters().reused_tokens.load(), 0u);
  check_same(answer, sink->wait(engine.submit(cold, first, sink)));
  // The same again: three full blocks of the prompt. Then a chat's next turn: the answer's blocks too.
  check_same(answer, sink->wait(engine.submit(warm, first, sink)));
  CHECK_EQ(warm->counters().reused_tokens.load(), 48u);
  RequestOptions next = first;
  next.tokens.insert(next.tokens.end(), answer.tokens.begin(), answer.tokens.end());
  for (int i = 0; i < 9; i++) next.tokens.push_back(i);
  const Result turn = sink->wait(engine.submit(warm, next, sink));
  CHECK_EQ(warm->counters().reused_tokens.load(), 48u + 64u);
  check_same(turn, sink->wait(engine.submit(cold, next, sink)));
  // A difference in the first token shares nothing.
  next.tokens[0] += 1;
  check_same(sink->wait(engine.submit(warm, next, sink)), sink->wait(engine.submit(cold, next, sink)));
  CHECK_EQ(warm->counters().reused_tokens.load(), 48u + 64u);
  CHECK_EQ(cold->counters().reused_tokens.load(), 0u);
  // Remembered blocks make room when they must: a crowd of other texts, then the first again.
  auto random = check::random(6);
  std::vector<uint64_t> ids;
  for (int i = 0; i < 12; i++) ids.push_back(engine.submit(warm, request(random), sink));
  for (const uint64_t id : ids) CHECK(sink->wait(id).finish == Finish::length);
  check_same(answer, sink->wait(engine.submit(warm, first, sink)));
  CHECK_EQ(warm->counters().kv_blocks_used.load(), 0u);
  close_and_wait(engine, cold);
  close_and_wait(engine, warm);
}

TEST(a_full_queue_refuses_and_late_requests_end) {
  const auto host = tiny_model(15);
  Engine engine;
  Placement narrow;
  narrow.max_logit_rows = 1;  // one sequence at a time
  narrow.max_queue = 3;
  narrow.stream_hooks = unhurried();
  const auto model = make_model(host, narrow);
  engine.add(model);
  const auto sink = std::make_shared<Collector>();
  RequestOptions endless;
  endless.tokens = {1, 2, 3};
  endless.max_tokens = 150;
  RequestOptions hurried = endless;
  hurried.queue_timeout_ms = 1;
  RequestOptions doomed = endless;
  doomed.deadline_ms = 1;
  RequestOptions urgent = endless;
  urgent.priority = 1;
  const uint64_t runs = engine.submit(model, endless, sink);
  while (sink->tokens_of(runs) == 0) std::this_thread::yield();
  std::vector<uint64_t> waiting = {engine.submit(model, endless, sink), engine.submit(model, hurried, sink),
                                   engine.submit(model, doomed, sink)};
  bool refused = false;
  try {
    engine.submit(model, endless, sink);
  } catch (const Error& error) {
    refused = true;
    CHECK_EQ(std::string(error.code()), std::string(code::kQueueFull));
    CHECK(error.retry_after_ms > 0);
  }
  CHECK(refused);
  CHECK_EQ(sink->wait(waiting[1]).error_code, std::string(code::kQueueTimeout));
  CHECK_EQ(sink->wait(waiting[2]).error_code, std::string(code::kDeadlineExceeded));
  // A place taken ahead of the submission counts, and is given back.
  const uint64_t early = Engine::admit(model);
  const uint64_t other = Engine::admit(model);
  CHECK_EQ(model->waiting(), 3);
  CHECK_THROWS_CODE(Engine::admit(model), code::kQueueFull);
  Engine::withdraw(model);
  CHECK(other > early);
  CHECK_EQ(model->waiting(), 2);
  // Limits and timings count from the call, not from the submission.
  RequestOptions aged = endless;
  aged.id = early;
  aged.age_ms = 60'000;
  aged.deadline_ms = 50'000;
  CHECK_EQ(engine.submit(model, aged, sink), early);
  const Result late = sink->wait(early);
  CHECK_EQ(late.error_code, std::string(code::kDeadlineExceeded));
  const uint64_t first = engine.submit(model, urgent, sink);
  CHECK(sink->wait(first).finish == Finish::length);
  CHECK(sink->tokens_of(waiting[0]) < 100u);  // came before, but of lower priority: it has just begun
  CHECK(sink->wait(waiting[0]).finish == Finish::length);
  close_and_wait(engine, model);
}

// Every weight byte serves every row of a step.
TEST(weight_bytes_of_a_step_do_not_depend_on_its_rows) {
  const auto host = tiny_model(7);
  Engine engine;
  std::vector<uint64_t> bytes_a_step;
  for (const int crowd : {1, 8}) {
    const auto model = make_model(host, {});
    engine.add(model);
    const auto sink = std::make_shared<Collector>();
    RequestOptions options;
    options.tokens = {1, 2, 3};
    options.max_tokens = 20;
    std::vector<uint64_t> ids;
    for (int i = 0; i < crowd; i++) ids.push_back(engine.submit(model, options, sink));
    for (const uint64_t id : ids) sink->wait(id);
    close_and_wait(engine, model);
    const ModelCounters& counters = model->counters();
    CHECK(counters.decode_rows >= static_cast<uint64_t>(crowd) * 19);
    bytes_a_step.push_back(counters.weight_bytes_read / counters.steps);
    CHECK_EQ(counters.weight_bytes_read % counters.steps, 0u);
  }
  CHECK_EQ(bytes_a_step[0], bytes_a_step[1]);
  CHECK(bytes_a_step[0] > 0u);
}

// Through the whole engine: leave out one wait, and the logits are not those of the resident run.
TEST(a_pass_needs_every_wait) {
  if (kRaceDetector) SKIP("the race that this test makes on purpose is what ThreadSanitizer reports");
  const auto host = tiny_model(9);
  RequestOptions options;
  options.kind = RequestKind::score;
  options.logits = true;
  for (int i = 0; i < 20; i++) options.tokens.push_back(i * 5 % 97);
  Engine engine;
  const auto score = [&](const Placement& placement) {
    const auto model = make_model(host, placement);
    engine.add(model);
    const auto sink = std::make_shared<Collector>();
    Result result = sink->wait(engine.submit(model, options, sink));
    close_and_wait(engine, model);
    return result;
  };
  // A wait left out is a race, and on a busy machine either side may lose it by chance: it must show within a few
  // tries, each slower than the one before.
  const auto shows = [](const auto& differs) {
    for (int milliseconds = 2; milliseconds <= 32; milliseconds *= 2) {
      if (differs([=] { std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds)); })) return true;
    }
    return false;
  };
  const Result expected = score({});
  Placement streamed;
  streamed.layers = Home::streamed;
  streamed.max_rows = 10;  // two passes
  streamed.poison = true;
  const auto same = [&](const Result& result) {
    return result.logits.size() == expected.logits.size() &&
           std::memcmp(result.logits.data(), expected.logits.data(), expected.logits.size() * 4) == 0;
  };
  CHECK(same(score(streamed)));
  for (int64_t wait = 0; wait < 12; wait++) {
    CHECK(shows([&](const std::function<void()>& pause) {
      Placement slow_copies = streamed;
      slow_copies.stream_hooks.before_copy = pause;
      slow_copies.hooks.skip_ready_wait = wait;
      return !same(score(slow_copies));
    }));
    if (wait >= 10) continue;  // the ring's first slots are free from the start: fewer waits
    CHECK(shows([&](const std::function<void()>& pause) {
      Placement slow_compute = streamed;
      slow_compute.stream_hooks.before_compute = pause;
      slow_compute.hooks.skip_free_wait = wait;
      return !same(score(slow_compute));
    }));
  }
}

TEST(stop_tokens_end_a_request_and_are_not_given_out) {
  const auto host = tiny_model(11);
  Engine engine;
  const auto model = make_model(host, {});
  engine.add(model);
  const auto sink = std::make_shared<Collector>();
  RequestOptions options;
  options.tokens = {5, 6, 7};
  options.max_tokens = 30;
  const Result whole = sink->wait(engine.submit(model, options, sink));
  REQUIRE(whole.tokens.size() == 30);
  size_t at = 0;  // the first token that did not occur before
  for (size_t i = 1; i < 30; i++) {
    if (std::find(whole.tokens.begin(), whole.tokens.begin() + i, whole.tokens[i]) == whole.tokens.begin() + i) at = i;
    if (at > 3) break;
  }
  options.stop_tokens = {whole.tokens[at]};
  const Result stopped = sink->wait(engine.submit(model, options, sink));
  CHECK(stopped.finish == Finish::stop);
  CHECK(stopped.tokens == std::vector<int32_t>(whole.tokens.begin(), whole.tokens.begin() + at));
  close_and_wait(engine, model);
}

TEST(requests_are_checked_against_the_context) {
  const auto host = tiny_model(12);
  Engine engine;
  const auto model = make_model(host, {});
  engine.add(model);
  const auto sink = std::make_shared<Collector>();
  RequestOptions options;
  options.tokens.assign(kContext, 1);
  CHECK_THROWS_CODE(engine.submit(model, options, sink), code::kContextOverflow);
  options.tokens.assign(kContext - 2, 1);
  options.max_tokens = 1000;
  const Result cut = sink->wait(engine.submit(model, options, sink));
  CHECK(cut.finish == Finish::length);
  CHECK_EQ(cut.tokens.size(), 2u);
  options.tokens.clear();
  CHECK_THROWS_CODE(engine.submit(model, options, sink), code::kInvalidArgument);
  close_and_wait(engine, model);
  options.tokens = {1};
  const Result late = sink->wait(engine.submit(model, options, sink));
  CHECK(late.finish == Finish::error);
  CHECK_EQ(late.error_code, std::string(code::kModelClosed));
}

TEST(close_drains_or_aborts) {
  const auto host = tiny_model(13);
  Engine engine;
  RequestOptions options;
  options.tokens = {1, 2};
  options.max_tokens = 100;
  for (const bool drain : {true, false}) {
    Placement slow;
    slow.stream_hooks = unhurried();
    const auto model = make_model(host, slow);
    engine.add(model);
    const auto sink = std::make_shared<Collector>();
    const uint64_t id = engine.submit(model, options, sink);
    while (sink->tokens_of(id) == 0) std::this_thread::yield();
    close_and_wait(engine, model, drain);
    const Result result = sink->wait(id);  // has ended already: close() gives the last tokens first
    CHECK(result.finish == (drain ? Finish::length : Finish::abort));
    if (drain) CHECK_EQ(result.tokens.size(), 100u);
  }
}

// A pass that fails in the middle ends the requests that were in it, with the error's code; those that waited, and
// later ones, give the bits that they give alone, streamed as well.
TEST(a_failed_pass_ends_its_requests_and_no_others) {
  const auto host = tiny_model(17);
  Engine engine;
  RequestOptions options;
  for (int t = 0; t < 20; t++) options.tokens.push_back(t * 3 % 97);
  options.max_tokens = 12;
  options.logprobs = true;
  const auto sink = std::make_shared<Collector>();
  const auto whole = make_model(host, {});
  engine.add(whole);
  const Result alone = sink->wait(engine.submit(whole, options, sink));
  close_and_wait(engine, whole);
  for (int round = 0; round < 3; round++) {
    Placement placement;
    placement.layers = round == 0 ? Home::resident : Home::streamed;
    placement.cpu_feed_forwards = round == 2;  // the CPU has had its part of the pass when it fails
    placement.poison = true;
    placement.max_logit_rows = 2;  // two at a time: the third waits
    ModelConfig config = make_model(host, placement)->config();
    const auto model = std::make_shared<Model>(Engine::next_id(), std::make_unique<FaultyBackend>(4, code::kInternal),
                                               host, config, round == 2 ? create_cpu_backend(2) : nullptr);
    engine.add(model);
    std::vector<uint64_t> ids;
    for (int i = 0; i < 3; i++) ids.push_back(engine.submit(model, options, sink));
    for (int i = 0; i < 2; i++) {
      const Result result = sink->wait(ids[i]);
      CHECK(result.finish == Finish::error);
      CHECK_EQ(result.error_code, std::string(code::kInternal));
    }
    check_same(sink->wait(ids[2]), alone);
    check_same(sink->wait(engine.submit(model, options, sink)), alone);
    CHECK_EQ(model->counters().kv_blocks_used.load(), 0u);
    CHECK_EQ(model->waiting(), 0);
    close_and_wait(engine, model);
  }
}

// A trace shows the CPU's part too, and ends with the model; nothing waits for it.
TEST(a_trace_has_every_unit_of_every_side) {
  const auto host = tiny_model(23);
  Engine engine;
  Placement placement;
  placement.layers = Home::streamed;
  placement.cpu_feed_forwards = true;
  const auto model = make_model(host, placement);
  engine.add(model);
  const std::string path = "trace_" + std::to_string(::getpid()) + ".json";
  std::atomic<bool> ready{false};
  engine.trace(
      model, path, [&] { ready = true; }, [](const Error& error) { throw error; });
  const auto sink = std::make_shared<Collector>();
  RequestOptions options;
  options.tokens = {5, 6, 7};
  options.max_tokens = 9;
  CHECK(sink->wait(engine.submit(model, options, sink)).finish == Finish::length);
  CHECK(ready.load());
  close_and_wait(engine, model);
  std::ifstream file(path);
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  std::remove(path.c_str());
  const auto count = [&](const std::string& what) {
    int found = 0;
    for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) found++;
    return found;
  };
  CHECK_EQ(count("\"the CPU has feed-forward 0\""), 8);  // the prompt's pass streams it
  CHECK_EQ(count("\"tid\":4,\"name\":\"feed-forward 2\""), 8);
  CHECK_EQ(count("\"tid\":2,\"name\":\"feed-forward 1\""), 9);
  CHECK_EQ(count("\"sample\""), 9);
  CHECK_EQ(text.substr(text.size() - 2), std::string("]\n"));
}

// More sequences than the CPU is meant to serve: its units are streamed for them all, and the bits are the same on
// twins.
TEST(a_crowd_streams_what_the_cpu_computes_for_few) {
  auto random = check::random(24);
  const auto host = tiny_model(24);
  Engine engine;
  const auto sink = std::make_shared<Collector>();
  std::vector<RequestOptions> requests;
  for (int i = 0; i < 12; i++) requests.push_back(request(random));
  std::vector<Result> alone;
  const auto resident = make_model(host, {});
  engine.add(resident);
  for (const RequestOptions& options : requests) alone.push_back(sink->wait(engine.submit(resident, options, sink)));
  close_and_wait(engine, resident);

  Placement placement;
  placement.cpu_feed_forwards = true;
  placement.poison = true;
  ModelConfig config = make_model(host, placement)->config();
  config.cpu_rows = 3;
  const auto model =
      std::make_shared<Model>(Engine::next_id(), create_cpu_backend(2), host, config, create_cpu_backend(2));
  engine.add(model);
  std::vector<uint64_t> ids;
  for (const RequestOptions& options : requests) ids.push_back(engine.submit(model, options, sink));
  for (size_t i = 0; i < ids.size(); i++) check_same(sink->wait(ids[i]), alone[i]);
  const uint64_t hops = model->counters().hops, steps = model->counters().steps;
  CHECK(hops < 2 * steps);  // two units of the CPU a pass of few
  RequestOptions one = requests[0];
  one.max_tokens = 20;
  one.stop_tokens = {};
  sink->wait(engine.submit(model, one, sink));
  CHECK_EQ(model->counters().hops - hops, 2u * 19u);
  close_and_wait(engine, model);
}

// Models that share an arena too small for them, whose limit moves, and one whose units move between resident and
// streamed while it serves: every text equals the one of an undisturbed model.
TEST(same_bits_while_homes_and_arena_move) {
  auto random = check::random(21);
  const auto host = tiny_model(check::seed() + 1);
  Engine engine;
  std::vector<RequestOptions> requests;
  for (int i = 0; i < 12; i++) requests.push_back(request(random));
  std::vector<Result> alone;
  const auto sink = std::make_shared<Collector>();
  size_t slabs = 0, largest = 0;
  for (const UnitLayout& unit : host->units()) {
    slabs += unit.bytes;
    largest = std::max(largest, unit.bytes);
  }
  {
    const auto model = make_model(host, {});
    engine.add(model);
    for (const RequestOptions& options : requests) alone.push_back(sink->wait(engine.submit(model, options, sink)));
    close_and_wait(engine, model);
  }
  std::vector<std::shared_ptr<Model>> models;
  for (int m = 0; m < 3; m++) {
    Placement placement;
    placement.poison = true;
    ModelConfig config = make_model(host, placement)->config();
    config.homes.assign(host->units().size(), m == 2 ? Home::streamed : Home::shared);
    config.ring_bytes = {2 * largest};
    config.arena_bytes = slabs;  // for one of them
    config.turn_ms = 2;
    models.push_back(std::make_shared<Model>(Engine::next_id(), create_cpu_backend(2), host, config));
    engine.add(models.back());
  }
  std::vector<uint64_t> ids;
  for (const RequestOptions& options : requests) {
    for (const auto& model : models) ids.push_back(engine.submit(model, options, sink));
  }
  std::atomic<int> moved{0};
  const auto fails = [](const Error& error) { throw error; };
  for (int i = 0; i < 60; i++) {
    std::vector<Home> homes;
    for (size_t unit = 0; unit < host->units().size(); unit++) {
      homes.push_back(random() % 2 == 0 ? Home::resident : Home::streamed);
    }
    engine.set_homes(
        models[2], homes, {largest + random() % largest}, [&](const std::vector<Home>&) { moved++; }, fails);
    engine.set_arena_limit(
        models[0], random() % (2 * slabs), [] {}, fails);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  engine.set_arena_limit(
      models[0], slabs, [] {}, fails);
  for (size_t i = 0; i < ids.size(); i++) check_same(sink->wait(ids[i]), alone[i / models.size()]);
  CHECK(models[0]->counters().switches > 1u);
  std::string refused;
  engine.set_homes(
      models[0], std::vector<Home>(host->units().size(), Home::resident), {2 * largest},
      [](const std::vector<Home>&) {}, [&](const Error& error) { refused = error.code(); });
  for (const auto& model : models) close_and_wait(engine, model);
  CHECK_EQ(moved.load(), 60);
  CHECK_EQ(refused, std::string(code::kInvalidArgument));
}

// All its units shared, in an arena with room for one such model.
static std::shared_ptr<Model> sharing_model(const std::shared_ptr<const HostModel>& host, int turn_ms) {
  ModelConfig config = make_model(host, {})->config();
  size_t slabs = 0, largest = 0;
  for (const UnitLayout& unit : host->units()) {
    slabs += unit.bytes;
    largest = std::max(largest, unit.bytes);
  }
  config.homes.assign(host->units().size(), Home::shared);
  config.ring_bytes = {2 * largest};
  config.arena_bytes = slabs;
  config.turn_ms = turn_ms;
  return std::make_shared<Model>(Engine::next_id(), create_cpu_backend(1, unhurried()), host, config);
}

// A model that is away gets its turn although another one never runs out of work, and the other gets it back.
TEST(models_that_share_an_arena_take_turns) {
  const auto host = tiny_model(22);
  Engine engine;
  std::vector<std::shared_ptr<Model>> models;
  const auto sink = std::make_shared<Collector>();
  std::vector<uint64_t> ids;
  RequestOptions options;
  options.tokens = {1, 2, 3};
  options.max_tokens = 150;
  for (int m = 0; m < 3; m++) {
    models.push_back(sharing_model(host, 10));
    engine.add(models.back());
    ids.push_back(engine.submit(models.back(), options, sink));
  }
  // All are served at the same time: when the first is done, the others have come far.
  sink->wait(ids[0]);
  CHECK(sink->tokens_of(ids[1]) > 40u);
  CHECK(sink->tokens_of(ids[2]) > 40u);
  for (const uint64_t id : ids) CHECK(sink->wait(id).finish == Finish::length);
  for (const auto& model : models) {
    CHECK(model->counters().switches > 2u);  // it was away and came back
    close_and_wait(engine, model);
  }
}

// Submit, cancel, detach and close from several threads at once, two models on one engine, streamed with delays.
TEST(abuse_from_many_threads) {
  const auto host = tiny_model(14);
  Engine engine;
  auto random = check::random(5);
  std::vector<std::shared_ptr<Model>> models;
  for (int m = 0; m < 2; m++) {
    Placement placement;
    placement.layers = m == 0 ? Home::streamed : Home::resident;
    placement.cpu_feed_forwards = m == 0;
    placement.threads = 4;
    placement.poison = true;
    placement.max_rows = 16;
    placement.max_logit_rows = 8;
    models.push_back(make_model(host, placement));
    engine.add(models.back());
  }
  std::vector<std::thread> users;
  for (int u = 0; u < 4; u++) {
    const uint64_t seed = random();
    users.emplace_back([&engine, &models, seed, u] {
      std::mt19937_64 own(seed);
      const auto sink = std::make_shared<Collector>();
      std::vector<std::pair<std::shared_ptr<Model>, uint64_t>> open;
      for (int i = 0; i < 15; i++) {
        const auto& model = models[own() % 2];
        open.push_back({model, engine.submit(model, request(own), sink)});
        if (own() % 3 == 0) {
          const auto& victim = open[own() % open.size()];
          engine.cancel(victim.first, victim.second);
        }
        if (own() % 4 == 0) std::this_thread::sleep_for(std::chrono::microseconds(own() % 500));
      }
      if (u == 3) {
        engine.detach(sink);  // an environment that ends: everything it had is aborted
      }
      for (const auto& [model, id] : open) {
        if (u != 3) CHECK(sink->wait(id).finish != Finish::none);
      }
      CHECK_EQ(sink->after_end(), 0);
    });
  }
  for (auto& user : users) user.join();
  for (const auto& model : models) {
    close_and_wait(engine, model);
    CHECK_EQ(model->counters().kv_blocks_used.load(), 0u);
    CHECK_EQ(model->counters().running.load(), 0u);
  }
}

// The last thing that happens to an idle model may be that its only request is out of time.
TEST(counters_after_a_deadline) {
  const auto host = tiny_model(12);
  Engine engine;
  Placement slow;
  slow.stream_hooks = unhurried();
  const auto model = make_model(host, slow);
  engine.add(model);
  const auto sink = std::make_shared<Collector>();
  RequestOptions options;
  options.tokens = {1, 2, 3};
  options.max_tokens = 150;
  options.deadline_ms = 30;
  CHECK_EQ(sink->wait(engine.submit(model, options, sink)).error_code, std::string(code::kDeadlineExceeded));
  for (int i = 0; i < 5000 && model->counters().running > 0; i++)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  CHECK_EQ(model->counters().running.load(), 0u);
  CHECK_EQ(model->counters().kv_blocks_used.load(), 0u);
  close_and_wait(engine, model);
}

TEST(deadlines_hold_for_models_that_wait_for_their_turn) {
  const auto host = tiny_model(22);
  Engine engine;
  std::vector<std::shared_ptr<Model>> models;
  const auto sink = std::make_shared<Collector>();
  RequestOptions options;
  options.tokens = {1, 2, 3};
  options.max_tokens = 150;
  for (int m = 0; m < 2; m++) {
    models.push_back(sharing_model(host, 60000));
    engine.add(models.back());
  }
  const uint64_t running = engine.submit(models[0], options, sink);
  while (sink->tokens_of(running) < 3) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  options.deadline_ms = 20;
  options.queue_timeout_ms = 20;
  sink->wait(engine.submit(models[1], options, sink));
  CHECK(sink->tokens_of(running) < 150);  // the other model still has its turn
  for (const auto& model : models) close_and_wait(engine, model, false);
}

TEST(a_preempted_request_waits_for_those_of_higher_priority) {
  const auto host = tiny_model(31);
  Engine engine;
  Placement placement;
  placement.kv_blocks = 12;
  placement.prefix_reuse = false;
  placement.stream_hooks = unhurried();
  const auto model = make_model(host, placement);
  engine.add(model);
  const auto sink = std::make_shared<Collector>();
  const auto ask = [&](int priority, int prompt, int tokens) {
    RequestOptions options;
    for (int i = 0; i < prompt; i++) options.tokens.push_back(i * 7 % 97);
    options.max_tokens = tokens;
    options.priority = priority;
    return engine.submit(model, options, sink);
  };
  const uint64_t first = ask(10, 60, 95);  // grows to 10 of 12 blocks and pushes the next one out
  const uint64_t low = ask(-10, 64, 90);
  while (model->counters().preemptions.load() == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  const uint64_t high = ask(10, 140, 10);
  sink->wait(first);
  sink->wait(high);
  CHECK(sink->tokens_of(low) < 90);
  sink->wait(low);
  close_and_wait(engine, model);
}

TEST(chats_that_begin_together_both_find_their_prefix) {
  const auto host = tiny_model(8);
  Engine engine;
  Placement placement;
  placement.kv_blocks = 60;
  placement.max_rows = 80;
  placement.stream_hooks = unhurried();
  const auto model = make_model(host, placement);
  engine.add(model);
  const auto sink = std::make_shared<Collector>();
  const auto prompt = [&](int chat) {
    RequestOptions options;
    for (int i = 0; i < 16; i++) options.tokens.push_back(i * 7 % 97);                // a system prompt that they share
    for (int i = 0; i < 64; i++) options.tokens.push_back((i * 5 + chat * 31) % 97);  // what is their own
    options.max_tokens = 17;
    return options;
  };
  RequestOptions busy;
  busy.tokens = {1, 2, 3, 4};
  busy.max_tokens = 60;
  const uint64_t other = engine.submit(model, busy, sink);
  while (sink->tokens_of(other) < 3) std::this_thread::sleep_for(std::chrono::microseconds(100));
  const uint64_t ids[2] = {engine.submit(model, prompt(0), sink), engine.submit(model, prompt(1), sink)};
  const std::vector<int32_t> answers[2] = {sink->wait(ids[0]).tokens, sink->wait(ids[1]).tokens};
  for (int chat = 0; chat < 2; chat++) {
    RequestOptions next = prompt(chat);
    next.tokens.insert(next.tokens.end(), answers[chat].begin(), answers[chat].end());
    next.tokens.push_back(3);
    const uint64_t before = model->counters().reused_tokens;
    sink->wait(engine.submit(model, next, sink));
    CHECK_EQ(model->counters().reused_tokens - before, uint64_t{96});
  }
  close_and_wait(engine, model);
}
