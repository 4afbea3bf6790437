// What docs/ARCHITECTURE.md promises bit for bit, on a GPU, with row budgets, chunks, KV and placements that no plan
// would choose: answers to random requests are those of the resident model that is asked one at a time.
#include <atomic>

#include "cuda/cuda_backend.h"
#include "engine/constraints.h"
#include "engine/harness.h"
#include "gpu.h"

using namespace millrace;

namespace {

int gpu_count = 0;

std::shared_ptr<Model> gpu_model(const std::shared_ptr<const HostModel>& host, Placement placement) {
  placement.prefix_reuse = false;  // of text that decoding computed, a GPU's own bits
  const ModelConfig config = make_model(host, placement)->config();
  std::vector<std::unique_ptr<Backend>> backends;
  for (int i = 0; i < placement.devices; i++) backends.push_back(create_cuda_backend(i % gpu_count));
  return std::make_shared<Model>(Engine::next_id(), std::move(backends), host, config,
                                 placement.cpu_feed_forwards ? create_cpu_backend(placement.threads) : nullptr);
}

std::vector<RequestOptions> some_requests(std::mt19937_64& random, int count) {
  std::vector<RequestOptions> requests;
  const auto constraint = in_turns();
  for (int i = 0; i < count; i++) {
    requests.push_back(request(random));
    if (i % 4 == 1) requests.back().constraint = constraint;
  }
  return requests;
}

std::vector<Result> one_by_one(Engine& engine, const std::shared_ptr<const HostModel>& host, const Placement& placement,
                               const std::vector<RequestOptions>& requests) {
  const auto model = gpu_model(host, placement);
  engine.add(model);
  const auto sink = std::make_shared<Collector>();
  std::vector<Result> results;
  for (const RequestOptions& options : requests) {
    results.push_back(sink->wait(engine.submit(model, options, sink)));
    CHECK_EQ(results.back().error_message, std::string());
    CHECK(results.back().finish == Finish::length || results.back().finish == Finish::stop);
  }
  close_and_wait(engine, model);
  return results;
}

// All at once, every third with drafts; returns how often one was preempted.
uint64_t check_crowd(Engine& engine, const std::shared_ptr<const HostModel>& host, const Placement& placement,
                     std::vector<RequestOptions> requests, const std::vector<Result>& alone) {
  for (size_t i = 0; i < requests.size(); i += 3) {
    requests[i].drafts = DraftMethod::ngram;
    requests[i].draft_tokens = 3;
  }
  const auto model = gpu_model(host, placement);
  engine.add(model);
  const auto sink = std::make_shared<Collector>();
  std::vector<uint64_t> ids;
  for (const RequestOptions& options : requests) ids.push_back(engine.submit(model, options, sink));
  for (size_t i = 0; i < ids.size(); i++) check_same(sink->wait(ids[i]), alone[i]);
  const uint64_t preemptions = model->counters().preemptions;
  CHECK_EQ(model->counters().kv_blocks_used.load(), 0u);
  close_and_wait(engine, model);
  return preemptions;
}

// Prompts in chunks of whatever the budget leaves, with homes, rings and numbers of devices.
std::vector<std::pair<const char*, Placement>> placements() {
  std::vector<std::pair<const char*, Placement>> all;
  Placement p;
  all.push_back({"resident", p});
  p.ahead = StepsAhead::always;
  all.push_back({"resident, a step ahead", p});
  p.logit_table_entries = 20;
  all.push_back({"resident, a step ahead, with small tables", p});
  p = {};
  p.max_rows = 7;
  p.max_logit_rows = 5;
  all.push_back({"resident, seven rows a pass", p});
  p.layers = Home::streamed;
  p.poison = true;
  all.push_back({"streamed, seven rows a pass", p});
  p.devices = 2;
  p.max_rows = 19;
  all.push_back({"streamed over two devices", p});
  p.scatter = true;
  all.push_back({"scattered over two devices", p});
  Placement ahead;
  ahead.ahead = StepsAhead::always;
  ahead.devices = 2;
  all.push_back({"resident on two devices, a step ahead", ahead});
  ahead.devices = 3;
  ahead.max_rows = 19;
  all.push_back({"resident on three devices, a step ahead", ahead});
  Placement mixed;
  mixed.layers = Home::streamed;
  mixed.mixed = true;
  mixed.head_streamed = true;
  mixed.max_rows = 33;
  mixed.poison = true;
  all.push_back({"mixed", mixed});
  return all;
}

}  // namespace

TEST(same_bits_alone_or_in_a_crowd_whatever_the_placement_and_the_row_budget) {
  gpu_count = require_gpus();
  Watchdog watchdog(std::chrono::seconds(120));
  auto random = check::random(61);
  Engine engine;
  for (const int window : {0, 40}) {
    const auto host = tiny_model(check::seed() + 61, window);
    const std::vector<RequestOptions> requests = some_requests(random, 20);
    const std::vector<Result> alone = one_by_one(engine, host, {}, requests);
    for (const auto& [name, placement] : placements()) {
      watchdog.at(format("%s, window %d", name, window));
      check_crowd(engine, host, placement, requests, alone);
    }
  }
}

TEST(preempted_sequences_come_back_as_they_were) {
  gpu_count = require_gpus();
  Watchdog watchdog(std::chrono::seconds(60));
  const auto host = tiny_model(62);
  Engine engine;
  std::vector<RequestOptions> requests(5);
  for (int i = 0; i < 5; i++) {
    for (int t = 0; t < 40; t++) requests[i].tokens.push_back((t * 11 + i * 29) % 97);
    requests[i].max_tokens = 100;
    requests[i].logprobs = true;
    requests[i].temperature = i % 2 == 0 ? 0.7f : 0.0f;
    requests[i].seed = i;
  }
  const std::vector<Result> alone = one_by_one(engine, host, {}, requests);
  for (auto& [name, placement] : placements()) {
    watchdog.at(name);
    placement.kv_blocks = 12;
    CHECK(check_crowd(engine, host, placement, requests, alone) > 0u);
  }
}

// Who computes a row depends on its kind and the placement, so these are equal among themselves.
TEST(same_bits_beside_a_cpu_of_any_number_of_threads) {
  gpu_count = require_gpus();
  Watchdog watchdog(std::chrono::seconds(60));
  auto random = check::random(63);
  const auto host = tiny_model(63);
  Engine engine;
  const std::vector<RequestOptions> requests = some_requests(random, 12);
  Placement placement;
  placement.layers = Home::streamed;
  placement.cpu_feed_forwards = true;
  placement.poison = true;
  placement.threads = 1;
  const std::vector<Result> alone = one_by_one(engine, host, placement, requests);
  for (const int threads : {1, 3}) {
    placement.threads = threads;
    placement.max_rows = 17 + 12 * threads;
    for (const int devices : {1, 2}) {
      watchdog.at(format("%d threads, %d devices", threads, devices));
      placement.devices = devices;
      check_crowd(engine, host, placement, requests, alone);
    }
  }
}

TEST(same_bits_while_homes_move) {
  gpu_count = require_gpus();
  Watchdog watchdog(std::chrono::seconds(60));
  auto random = check::random(64);
  const auto host = tiny_model(64);
  Engine engine;
  const std::vector<RequestOptions> requests = some_requests(random, 12);
  const std::vector<Result> alone = one_by_one(engine, host, {}, requests);
  for (const int devices : {1, 2}) {
    Placement placement;
    placement.devices = devices;
    placement.layers = Home::streamed;
    placement.head_streamed = true;
    placement.poison = true;
    const auto model = gpu_model(host, placement);
    engine.add(model);
    const auto sink = std::make_shared<Collector>();
    std::vector<uint64_t> ids;
    for (const RequestOptions& options : requests) ids.push_back(engine.submit(model, options, sink));
    const size_t ring = model->config().ring_bytes[0];
    std::atomic<int> moved{0};
    for (int i = 0; i < 30; i++) {
      std::vector<Home> homes;
      for (size_t unit = 0; unit < host->units().size(); unit++) {
        homes.push_back(random() % 2 == 0 ? Home::resident : Home::streamed);
      }
      engine.set_homes(
          model, homes, std::vector<size_t>(devices, ring / 2 + random() % ring),
          [&, homes](const std::vector<Home>& found) { moved += found == homes; },
          [](const Error& error) { check::fail(__FILE__, __LINE__, error.what()); });
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    for (size_t i = 0; i < ids.size(); i++) check_same(sink->wait(ids[i]), alone[i]);
    close_and_wait(engine, model);
    CHECK_EQ(moved.load(), 30);
  }
}
