// Models on different devices step at the same time, those of one device in turn; on the twin, which is as many devices
// as it has names.
#include <atomic>
#include <future>
#include <thread>

#include "check.h"
#include "harness.h"

using namespace millrace;

namespace {

RequestOptions text(int first, int tokens) {
  RequestOptions options;
  for (int i = 0; i < 20; i++) options.tokens.push_back((first + i * 7) % 97);
  options.max_tokens = tokens;
  options.logprobs = true;
  return options;
}

Placement on(const char* device) {
  Placement placement;
  placement.stream_hooks.device = device;
  return placement;
}

}  // namespace

TEST(a_device_in_the_middle_of_a_pass_holds_up_no_other) {
  const auto host = tiny_model(41);
  Engine engine;
  const auto sink = std::make_shared<Collector>();
  std::promise<void> entered, release;
  std::shared_future<void> released = release.get_future();
  std::atomic<bool> first{true};
  Placement held = on("cpu:0");
  held.stream_hooks.before_compute = [&] {
    if (first.exchange(false)) {
      entered.set_value();
      released.wait();
    }
  };
  const auto slow = make_model(host, held);
  const auto quick = make_model(host, on("cpu:1"));
  engine.add(slow);
  engine.add(quick);
  const uint64_t waits = engine.submit(slow, text(1, 12), sink);
  entered.get_future().wait();
  // Its whole answer comes, and the model is closed, while the other device is inside a pass.
  const Result answer = sink->wait(engine.submit(quick, text(1, 12), sink));
  CHECK_EQ(answer.tokens.size(), size_t{12});
  close_and_wait(engine, quick);
  CHECK(!sink->ended(waits));
  CHECK_EQ(slow->counters().steps.load(), 0u);
  release.set_value();
  check_same(sink->wait(waits), answer);
  close_and_wait(engine, slow);
}

// Users who ask, cancel and go, of models that share weights and sinks but no device.
TEST(abuse_of_several_devices) {
  const auto host = tiny_model(42);
  Engine engine;
  std::vector<std::shared_ptr<Model>> models;
  for (const char* device : {"cpu:0", "cpu:1", "cpu:1", "cpu:2"}) {
    Placement placement = on(device);
    placement.layers = models.size() % 2 == 0 ? Home::resident : Home::streamed;
    placement.poison = true;
    placement.kv_blocks = 14;
    placement.ahead = StepsAhead::always;
    placement.devices = models.size() == 3 ? 2 : 1;
    models.push_back(make_model(host, placement));
    engine.add(models.back());
  }
  const auto together = std::make_shared<Collector>();
  auto random = check::random(9);
  std::vector<RequestOptions> requests;
  for (int i = 0; i < 6; i++) requests.push_back(request(random));
  std::vector<Result> alone;
  for (const RequestOptions& options : requests) {
    alone.push_back(together->wait(engine.submit(models[0], options, together)));
  }
  std::vector<std::thread> users;
  for (int u = 0; u < 3; u++) {
    users.emplace_back([&, u, seed = random()] {
      std::mt19937_64 own(seed);
      const auto mine = std::make_shared<Collector>();
      std::vector<std::pair<size_t, uint64_t>> kept;
      for (int i = 0; i < 12; i++) {
        const auto& model = models[own() % models.size()];
        const size_t which = own() % requests.size();
        const auto& sink = u == 0 ? mine : together;
        const uint64_t id = engine.submit(model, requests[which], sink);
        if (own() % 3 == 0) {
          engine.cancel(model, id);
          CHECK(sink->wait(id).finish != Finish::none);
        } else {
          kept.emplace_back(which, id);
        }
      }
      if (u == 0) return engine.detach(mine);
      for (const auto& [which, id] : kept) check_same(together->wait(id), alone[which]);
    });
  }
  for (std::thread& user : users) user.join();
  for (const auto& model : models) {
    close_and_wait(engine, model);
    CHECK_EQ(model->counters().kv_blocks_used.load(), 0u);
    CHECK_EQ(model->counters().running.load(), 0u);
  }
  CHECK_EQ(together->after_end(), 0);
}
