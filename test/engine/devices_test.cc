// A model spread over several devices, each a twin with streams and threads of its own: the bits of one device, each
// device's link for its own units, and faults on any of them.
#include "engine/engine.h"

#include <atomic>

#include "harness.h"
#include "stream/small_device.h"

using namespace millrace;

namespace {

std::vector<RequestOptions> some_requests(std::mt19937_64& random, int count) {
  std::vector<RequestOptions> requests;
  for (int i = 0; i < count; i++) requests.push_back(request(random));
  return requests;
}

// One after the other, resident on one device: what the others are held against.
std::vector<Result> answers(Engine& engine, const std::shared_ptr<const HostModel>& host,
                            const std::vector<RequestOptions>& requests) {
  const auto model = make_model(host, {});
  engine.add(model);
  const auto sink = std::make_shared<Collector>();
  std::vector<Result> results;
  for (const RequestOptions& options : requests) {
    results.push_back(sink->wait(engine.submit(model, options, sink)));
    CHECK(results.back().finish == Finish::length || results.back().finish == Finish::stop);
  }
  close_and_wait(engine, model);
  return results;
}

std::vector<uint64_t> submit_all(Engine& engine, const std::shared_ptr<Model>& model,
                                 const std::vector<RequestOptions>& requests, const std::shared_ptr<Collector>& sink) {
  std::vector<uint64_t> ids;
  for (const RequestOptions& options : requests) ids.push_back(engine.submit(model, options, sink));
  return ids;
}

// Devices that are now slow, now fast, each for itself.
CpuStreamHooks uneven(uint64_t seed) {
  const auto state = std::make_shared<std::atomic<uint64_t>>(seed);
  const auto pause = [state] {
    const uint64_t next = state->fetch_add(0x9e3779b97f4a7c15ull, std::memory_order_relaxed) * 0xd6e8feb86659fd93ull;
    if ((next >> 60) == 0) std::this_thread::sleep_for(std::chrono::microseconds((next >> 40) % 400));
  };
  CpuStreamHooks hooks;
  hooks.before_copy = pause;
  hooks.before_compute = pause;
  hooks.copy_chunk = 4096;
  return hooks;
}

size_t slabs_of(const Model& model, const HostModel& host, Home home, int device) {
  size_t bytes = 0;
  for (size_t unit = 0; unit < host.units().size(); unit++) {
    if (model.config().homes[unit] == home && model.config().devices[unit] == device) bytes += host.units()[unit].bytes;
  }
  return bytes;
}

}  // namespace

TEST(same_bits_on_one_device_and_on_several) {
  auto random = check::random(41);
  const auto host = tiny_model(check::seed() + 41);
  Engine engine;
  const std::vector<RequestOptions> requests = some_requests(random, 20);
  const std::vector<Result> alone = answers(engine, host, requests);

  Placement resident;
  Placement streamed;
  streamed.layers = Home::streamed;
  streamed.max_rows = 7;  // prompts in many chunks
  streamed.max_logit_rows = 5;
  streamed.poison = true;
  Placement mixed;
  mixed.layers = Home::streamed;
  mixed.mixed = true;
  mixed.head_streamed = true;
  mixed.max_rows = 33;
  mixed.kv_blocks = 12;  // sequences are preempted: their KV goes to RAM from every device
  mixed.poison = true;
  Placement scattered = streamed;
  scattered.max_rows = 19;
  scattered.scatter = true;
  Placement beside_cpu;
  beside_cpu.layers = Home::streamed;
  beside_cpu.cpu_feed_forwards = true;
  beside_cpu.max_rows = 29;
  beside_cpu.poison = true;
  for (const int devices : {2, 3}) {
    for (Placement placement : {resident, streamed, mixed, scattered, beside_cpu}) {
      placement.devices = devices;
      placement.stream_hooks = uneven(random());
      const auto model = make_model(host, placement);
      engine.add(model);
      const auto sink = std::make_shared<Collector>();
      const std::vector<uint64_t> ids = submit_all(engine, model, requests, sink);
      for (size_t i = 0; i < ids.size(); i++) check_same(sink->wait(ids[i]), alone[i]);
      CHECK_EQ(sink->after_end(), 0);
      const ModelCounters& counters = model->counters();
      CHECK_EQ(counters.kv_blocks_used.load(), 0u);
      CHECK_EQ(counters.saved_kv_bytes.load(), 0u);
      close_and_wait(engine, model);
      // Every device has fed its own units, and holds the keys and values of its own layers.
      size_t kv = 0, all = 0;
      for (int device = 0; device < devices; device++) {
        const DeviceCounters& own = model->devices()[device];
        const size_t slabs = slabs_of(*model, *host, Home::streamed, device);
        if (!placement.cpu_feed_forwards) CHECK((own.copied_bytes > 0) == (slabs > 0));
        CHECK(own.copied_bytes >= counters.steps * slabs);
        kv += own.kv_bytes;
        all += slabs;
      }
      if (placement.cpu_feed_forwards) {
        CHECK(counters.hops > 100u);
      } else {
        CHECK_EQ(counters.copied_bytes - counters.prefetched_bytes, all * counters.steps);
      }
      CHECK_EQ(kv, placement.kv_blocks * host->program().layers() * kv_block_bytes(host->program().kv[0]));
    }
  }
}

TEST(preempted_sequences_come_back_to_every_device) {
  const auto host = tiny_model(42);
  Engine engine;
  std::vector<RequestOptions> requests(4);
  for (int i = 0; i < 4; i++) {
    for (int t = 0; t < 40; t++) requests[i].tokens.push_back((t * 11 + i * 29) % 97);
    requests[i].max_tokens = 100;
    requests[i].logprobs = true;
    requests[i].temperature = 0.7f;
    requests[i].seed = i;
  }
  const std::vector<Result> alone = answers(engine, host, requests);
  for (const int devices : {2, 3}) {
    Placement tight;
    tight.devices = devices;
    tight.layers = Home::streamed;
    tight.kv_blocks = 12;
    tight.prefix_reuse = false;
    tight.stream_hooks = uneven(devices);
    const auto model = make_model(host, tight);
    engine.add(model);
    const auto sink = std::make_shared<Collector>();
    const std::vector<uint64_t> ids = submit_all(engine, model, requests, sink);
    for (size_t i = 0; i < ids.size(); i++) check_same(sink->wait(ids[i]), alone[i]);
    CHECK(model->counters().preemptions.load() > 0u);
    close_and_wait(engine, model);
    CHECK_EQ(model->counters().saved_kv_bytes.load(), 0u);
  }
}

// Rows may be read only where they have been handed over: without one of the waits for that, the logits are others.
TEST(a_pass_over_devices_needs_every_wait) {
  if (kRaceDetector) SKIP("the race that this test makes on purpose is what ThreadSanitizer reports");
  const auto host = tiny_model(43);
  RequestOptions options;
  options.kind = RequestKind::score;
  options.logits = true;
  for (int i = 0; i < 20; i++) options.tokens.push_back(i * 5 % 97);
  Engine engine;
  const std::vector<Result> alone = answers(engine, host, {options});
  const auto same = [&](const Placement& placement) {
    const auto model = make_model(host, placement);
    engine.add(model);
    const auto sink = std::make_shared<Collector>();
    const Result result = sink->wait(engine.submit(model, options, sink));
    close_and_wait(engine, model);
    return result.logits.size() == alone[0].logits.size() &&
           std::memcmp(result.logits.data(), alone[0].logits.data(), result.logits.size() * 4) == 0;
  };
  Placement spread;
  spread.devices = 2;
  spread.max_rows = 10;  // two passes of two hops
  CHECK(same(spread));
  for (int64_t wait = 0; wait < 4; wait++) {
    bool shows = false;
    for (int milliseconds = 2; milliseconds <= 32 && !shows; milliseconds *= 2) {
      Placement slow = spread;
      slow.stream_hooks.before_compute = [=] { std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds)); };
      slow.skip_hop_wait = wait;
      shows = !same(slow);
    }
    CHECK(shows);
  }
}

// On whichever device a pass fails, its requests end with the error, and what comes after gives its own bits.
TEST(a_fault_on_any_device_ends_the_pass_and_nothing_hangs) {
  const auto host = tiny_model(44);
  Engine engine;
  RequestOptions options;
  for (int t = 0; t < 20; t++) options.tokens.push_back(t * 3 % 97);
  options.max_tokens = 12;
  options.logprobs = true;
  const Result alone = answers(engine, host, {options})[0];
  for (const int devices : {2, 3}) {
    for (int failing = 0; failing < 3; failing++) {  // feed-forward of a layer, on whatever device that is
      for (const bool cpu : {false, true}) {
        Placement placement;
        placement.devices = devices;
        placement.layers = Home::streamed;
        placement.cpu_feed_forwards = cpu;
        placement.poison = true;
        placement.max_logit_rows = 2;  // two at a time: the third waits
        const ModelConfig config = make_model(host, placement)->config();
        const int unit = 2 * failing + 1;
        if (config.homes[unit] == Home::cpu) continue;  // of decode rows the device has no part in it
        std::vector<std::unique_ptr<Backend>> backends;
        for (int i = 0; i < devices; i++) {
          backends.push_back(std::make_unique<FaultyBackend>(4, code::kInternal, unit));
        }
        const auto model = std::make_shared<Model>(Engine::next_id(), std::move(backends), host, config,
                                                   cpu ? create_cpu_backend(2) : nullptr);
        engine.add(model);
        const auto sink = std::make_shared<Collector>();
        const std::vector<uint64_t> ids = submit_all(engine, model, {options, options, options}, sink);
        for (int i = 0; i < 2; i++) {
          const Result result = sink->wait(ids[i]);
          CHECK(result.finish == Finish::error);
          CHECK_EQ(result.error_code, std::string(code::kInternal));
        }
        check_same(sink->wait(ids[2]), alone);
        check_same(sink->wait(engine.submit(model, options, sink)), alone);
        CHECK_EQ(model->counters().kv_blocks_used.load(), 0u);
        close_and_wait(engine, model);
      }
    }
  }
}

TEST(same_bits_while_homes_move_on_several_devices) {
  auto random = check::random(45);
  const auto host = tiny_model(45);
  Engine engine;
  const std::vector<RequestOptions> requests = some_requests(random, 12);
  const std::vector<Result> alone = answers(engine, host, requests);
  Placement placement;
  placement.devices = 2;
  placement.layers = Home::streamed;
  placement.head_streamed = true;
  placement.poison = true;
  const auto model = make_model(host, placement);
  engine.add(model);
  const auto sink = std::make_shared<Collector>();
  const std::vector<uint64_t> ids = submit_all(engine, model, requests, sink);
  const size_t ring = model->config().ring_bytes[0];
  std::atomic<int> moved{0}, refused{0};
  for (int i = 0; i < 40; i++) {
    std::vector<Home> homes;
    for (size_t unit = 0; unit < host->units().size(); unit++) {
      homes.push_back(random() % 2 == 0 ? Home::resident : Home::streamed);
    }
    engine.set_homes(
        model, homes, {ring / 2 + random() % ring, ring / 2 + random() % ring},
        [&, homes](const std::vector<Home>& found) { moved += found == homes; },
        [](const Error& error) { throw error; });
    // Nothing moves on either device where one of them cannot do it.
    engine.set_homes(
        model, std::vector<Home>(homes.size(), Home::streamed), {ring, 1}, [](const std::vector<Home>&) {},
        [&](const Error&) { refused++; });
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  for (size_t i = 0; i < ids.size(); i++) check_same(sink->wait(ids[i]), alone[i]);
  close_and_wait(engine, model);
  CHECK_EQ(moved.load(), 40);
  CHECK_EQ(refused.load(), 40);
}

// Devices whose memory nobody else reads, of ever more memory: either all fits and the answers are right, or what did
// not fit is said and all is given back.
TEST(devices_with_memory_of_their_own_or_too_little_of_it) {
  auto random = check::random(47);
  const auto host = tiny_model(47);
  Engine engine;
  const std::vector<RequestOptions> requests = some_requests(random, 6);
  const std::vector<Result> alone = answers(engine, host, requests);
  Placement placement;
  placement.devices = 2;
  placement.layers = Home::streamed;
  placement.mixed = true;
  placement.kv_blocks = 12;
  placement.poison = true;
  const ModelConfig config = make_model(host, placement)->config();
  int refused = 0, served = 0;
  for (size_t bytes = 16384; served < 2; bytes += bytes / 4) {
    std::vector<std::unique_ptr<Backend>> backends;
    std::vector<std::shared_ptr<const std::atomic<size_t>>> left;
    for (int i = 0; i < 2; i++) {
      auto backend = std::make_unique<SmallDevice>(uneven(bytes + i), i == 0 ? bytes : 2 * bytes);
      left.push_back(backend->counter());
      backends.push_back(std::move(backend));
    }
    try {
      const auto model = std::make_shared<Model>(Engine::next_id(), std::move(backends), host, config);
      engine.add(model);
      const auto sink = std::make_shared<Collector>();
      const std::vector<uint64_t> ids = submit_all(engine, model, requests, sink);
      for (size_t i = 0; i < ids.size(); i++) check_same(sink->wait(ids[i]), alone[i]);
      const ModelCounters& counters = model->counters();
      CHECK(counters.resident_bytes > 0u);
      CHECK_EQ(counters.staged_bytes.load(), counters.copied_bytes + counters.resident_bytes);  // nothing was pinned
      for (const DeviceCounters& device : model->devices()) CHECK(!device.direct_hops);
      close_and_wait(engine, model);
      served++;
    } catch (const Error& error) {
      CHECK_EQ(std::string(error.code()), std::string(code::kOutOfMemory));
      refused++;
    }
    CHECK_EQ(left[0]->load(), bytes);
    CHECK_EQ(left[1]->load(), 2 * bytes);
  }
  CHECK(refused > 3);
}

TEST(what_cannot_be_spread_is_refused) {
  const auto host = tiny_model(46);
  Placement placement;
  placement.devices = 2;
  const ModelConfig good = make_model(host, placement)->config();
  const auto make = [&](const ModelConfig& config) {
    std::vector<std::unique_ptr<Backend>> backends;
    for (int i = 0; i < 2; i++) backends.push_back(create_cpu_backend(1));
    Model(Engine::next_id(), std::move(backends), host, config);
  };
  make(good);
  ModelConfig idle = good;
  idle.devices.assign(host->units().size(), 1);
  CHECK_THROWS_CODE(make(idle), code::kInvalidArgument);
  ModelConfig unknown = good;
  unknown.devices[2] = 2;
  CHECK_THROWS_CODE(make(unknown), code::kInvalidArgument);
  ModelConfig unnamed = good;
  unnamed.devices.clear();
  CHECK_THROWS_CODE(make(unnamed), code::kInvalidArgument);
  ModelConfig one_ring = good;
  one_ring.ring_bytes.pop_back();
  CHECK_THROWS_CODE(make(one_ring), code::kInvalidArgument);
  ModelConfig shared = good;
  shared.homes[1] = Home::shared;
  CHECK_THROWS_CODE(make(shared), code::kInvalidArgument);
}
