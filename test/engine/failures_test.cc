// What throws on a stream of the twin ends the requests of its pass; the process, other models and later requests go
// on.
#include <atomic>
#include <new>
#include <stdexcept>

#include "harness.h"

using namespace millrace;

namespace {

// Throws at the nth call, once.
class Fault {
 public:
  std::function<void()> hook(std::function<void()> thrown) {
    return [this, thrown = std::move(thrown)] {
      if (left_.fetch_sub(1) == 1) {
        fired_ = true;
        thrown();
      }
    };
  }
  void arm(int nth) {
    fired_ = false;
    left_ = nth;
  }
  bool fired() const { return fired_; }

 private:
  std::atomic<int> left_{0};
  std::atomic<bool> fired_{false};
};

void no_memory() {
  throw std::bad_alloc();
}

RequestOptions greedy(int prompt, int tokens) {
  RequestOptions options;
  for (int t = 0; t < prompt; t++) options.tokens.push_back(t * 3 % 97);
  options.max_tokens = tokens;
  options.logprobs = true;
  return options;
}

struct Where {
  const char* name;
  bool answer, compute, copy, beside;  // beside: of the CPU that computes beside a device
  Placement placement;
  int calls = 100;  // that there are at least
};

std::vector<Where> places() {
  Placement streamed;
  streamed.layers = Home::streamed;
  streamed.poison = true;
  Placement shared = streamed;
  shared.cpu_feed_forwards = true;
  Placement arena;
  arena.layers = Home::shared;
  Placement two = streamed;
  two.devices = 2;
  Placement ahead;
  ahead.ahead = StepsAhead::always;
  return {{"an answer, resident", true, false, false, false, {}},
          {"an answer, a step ahead", true, false, false, false, ahead},
          {"a kernel, a step ahead", false, true, false, false, ahead},
          {"an answer, streamed", true, false, false, false, streamed},
          {"an answer, two devices", true, false, false, false, two},
          {"a kernel, resident", false, true, false, false, {}},
          {"a kernel, streamed", false, true, false, false, streamed},
          {"a kernel, beside the CPU", false, true, false, false, shared},
          {"a kernel, two devices", false, true, false, false, two},
          {"a kernel of the CPU beside a device", false, true, false, true, shared},
          {"a copy, streamed", false, false, true, false, streamed},
          {"a copy, two devices", false, false, true, false, two},
          {"a copy, to the arena", false, false, true, false, arena, 6}};
}

}  // namespace

TEST(an_exception_on_a_stream_ends_the_requests_of_its_pass) {
  const auto host = tiny_model(17);
  Engine engine;
  const auto sink = std::make_shared<Collector>();
  const auto other = make_model(host, {});
  engine.add(other);
  const RequestOptions options = greedy(20, 12);
  const Result alone = sink->wait(engine.submit(other, options, sink));
  for (const Where& where : places()) {
    for (const int nth : {1, 2, 6, 9, 30}) {
      if (nth > where.calls) continue;
      Fault fault;
      Placement placement = where.placement;
      placement.max_logit_rows = 2;  // two at a time: the third waits
      CpuStreamHooks& hooks = where.beside ? placement.cpu_hooks : placement.stream_hooks;
      const auto hook = fault.hook(no_memory);
      if (where.answer) hooks.before_answer = hook;
      if (where.compute) hooks.before_compute = hook;
      if (where.copy) hooks.before_copy = hook;
      const auto model = make_model(host, placement);
      engine.add(model);
      fault.arm(nth);
      std::vector<uint64_t> ids;
      for (int i = 0; i < 3; i++) ids.push_back(engine.submit(model, options, sink));
      const uint64_t elsewhere = engine.submit(other, options, sink);
      int failed = 0;
      for (const uint64_t id : ids) {
        const Result result = sink->wait(id);
        if (result.finish != Finish::error) {
          check_same(result, alone);
          continue;
        }
        CHECK_EQ(result.error_code, std::string(code::kOutOfMemory));
        failed++;
      }
      if (!fault.fired() || failed == 0 || failed == 3) {
        check::fail(__FILE__, __LINE__, format("%s, call %d: %d of 3 failed", where.name, nth, failed));
      }
      check_same(sink->wait(elsewhere), alone);
      check_same(sink->wait(engine.submit(model, options, sink)), alone);
      close_and_wait(engine, model);
      CHECK_EQ(model->counters().kv_blocks_used.load(), 0u);
      CHECK_EQ(model->waiting(), 0);
    }
  }
  close_and_wait(engine, other);
}

TEST(what_is_thrown_decides_the_code) {
  const auto host = tiny_model(17);
  Engine engine;
  const auto sink = std::make_shared<Collector>();
  const std::pair<std::function<void()>, const char*> kinds[] = {
      {no_memory, code::kOutOfMemory},
      {[] { throw std::runtime_error("a fault"); }, code::kInternal},
      {[] { throw 7; }, code::kInternal},
      {[] { throw Error(code::kDeviceUnavailable, "gone", "none"); }, code::kDeviceUnavailable}};
  for (const auto& [thrown, expected] : kinds) {
    Fault fault;
    Placement placement;
    placement.stream_hooks.before_answer = fault.hook(thrown);
    const auto model = make_model(host, placement);
    engine.add(model);
    fault.arm(3);
    const Result result = sink->wait(engine.submit(model, greedy(5, 10), sink));
    CHECK(result.finish == Finish::error);
    CHECK_EQ(result.error_code, std::string(expected));
    CHECK_EQ(result.tokens.size(), 2u);  // those before it were given out
    close_and_wait(engine, model);
  }
}

// Sequences push each other out of a small cache while a copy to or from system RAM fails: whoever was in the pass
// fails; one that was to be saved in it is computed again, one that was saved before comes back. Nobody gets a wrong
// bit.
TEST(a_preempted_sequence_survives_a_pass_that_fails) {
  const auto host = tiny_model(16);
  Engine engine;
  const auto sink = std::make_shared<Collector>();
  const auto roomy = make_model(host, {});
  engine.add(roomy);
  std::vector<RequestOptions> requests;
  std::vector<Result> alone;
  for (int i = 0; i < 4; i++) {
    requests.push_back(greedy(40, 100));
    for (int32_t& token : requests[i].tokens) token = (token * 11 + i * 29) % 97;
    alone.push_back(sink->wait(engine.submit(roomy, requests[i], sink)));
  }
  int survivors = 0, recomputed = 0;
  bool fired = true;
  for (int nth = 1; fired; nth += 13) {
    Fault fault;
    Placement small;
    small.kv_blocks = 12;
    small.prefix_reuse = false;
    small.stream_hooks.before_copy = fault.hook(no_memory);
    const auto model = make_model(host, small);
    engine.add(model);
    fault.arm(nth);
    std::vector<uint64_t> ids;
    for (const RequestOptions& options : requests) ids.push_back(engine.submit(model, options, sink));
    int failed = 0;
    for (size_t i = 0; i < ids.size(); i++) {
      const Result result = sink->wait(ids[i]);
      if (result.finish == Finish::error) {
        CHECK_EQ(result.error_code, std::string(code::kOutOfMemory));
        failed++;
      } else {
        check_same(result, alone[i]);
      }
    }
    fired = fault.fired();
    CHECK_EQ(failed > 0, fired);
    if (fired) survivors += 4 - failed;
    recomputed += static_cast<int>(model->counters().recomputations.load());
    close_and_wait(engine, model);
    CHECK_EQ(model->counters().kv_blocks_used.load(), 0u);
    CHECK_EQ(model->counters().saved_kv_bytes.load(), 0u);
  }
  CHECK(survivors > 0);
  CHECK(recomputed > 0);
  close_and_wait(engine, roomy);
}
