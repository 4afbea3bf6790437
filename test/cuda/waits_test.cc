// On a GPU, as test/stream and test/engine do it on the twin: leave out a single wait, mark or ticket of streaming, and
// the answers are no longer those of the resident model. Copies or kernels are held up, so that whoever does not wait
// is too early; freed slots and new memory are poisoned, so that being too early shows.
#include "core/thread_pool.h"
#include "delayed_gpu.h"
#include "gpu.h"
#include "stream/synthetic.h"

using namespace millrace;
using std::chrono::microseconds;
using std::chrono::milliseconds;

namespace {

std::shared_ptr<const HostModel> small_model(uint64_t seed, bool pinned = true) {
  DenseSpec spec;
  spec.vocab = 256;
  spec.hidden = 256;
  spec.layers = 3;
  spec.heads = 4;
  spec.kv_heads = 2;
  spec.head_dim = 64;
  spec.intermediate = 512;
  spec.max_position = 512;
  SyntheticOptions options;
  options.group = 64;
  options.zeros = true;
  options.seed = seed;
  ThreadPool pool(2);
  // Slabs that are not pinned hold up the host, which would then enqueue no pass ahead of its copies.
  const HostPinners pinners{pinned ? create_cuda_backend(0)->pinner() : Pinner{}, {}};
  auto model = synthetic_model(dense_program(spec), options, pool, pinners);
  model->wait_until_pinned();
  return model;
}

// A pass of a prompt, then one a token.
constexpr int kTokens = 3;
RequestOptions question() {
  RequestOptions options;
  for (int i = 0; i < 20; i++) options.tokens.push_back(i * 5 % 97);
  options.max_tokens = kTokens;
  options.logprobs = true;
  options.top_logprobs = 5;
  return options;
}

bool same(const Result& a, const Result& b) {
  const auto equal = [](const std::vector<float>& x, const std::vector<float>& y) {
    return x.size() == y.size() && (x.empty() || std::memcmp(x.data(), y.data(), x.size() * sizeof(float)) == 0);
  };
  return a.finish == b.finish && a.tokens == b.tokens && a.top_tokens == b.top_tokens &&
         equal(a.logprobs, b.logprobs) && equal(a.top_logprobs, b.top_logprobs);
}

struct Setup {
  Home layers = Home::streamed;  // of the head too
  bool beside_cpu = false;       // the feed-forwards of the first and the last layer compute there
  std::vector<int> gpus = {0};   // several: layers alternate
  bool direct_hops = true;
  Delays delays;
  microseconds cpu_delay{0};  // before each operation of the CPU's
  FeederHooks feeder;
  ExecutorHooks executor;
  int64_t skip_hop_wait = -1;
  Omissions gpu, cpu;
};

// What there was to leave out.
struct Run {
  Result result;
  uint64_t gpu_receives = 0, cpu_receives = 0, published = 0, copy_waits = 0;
};

struct Loaded {
  std::shared_ptr<Model> model;
  std::shared_ptr<Seen> gpu, cpu;
};

Loaded load(const std::shared_ptr<const HostModel>& host, const Setup& setup) {
  ModelConfig config;
  size_t largest = 0, all = 0;
  for (size_t u = 0; u < host->units().size(); u++) {
    const ProgramUnit& unit = host->program().units[u];
    const size_t bytes = host->units()[u].bytes;
    const bool computed_there =
        setup.beside_cpu && host->program().stands_alone(static_cast<int>(u)) && unit.layer != 1;
    config.homes.push_back(computed_there ? Home::cpu : setup.layers);
    if (setup.gpus.size() > 1) config.devices.push_back(unit.layer % static_cast<int>(setup.gpus.size()));
    largest = std::max(largest, bytes);
    all += bytes;
  }
  config.ring_bytes.assign(setup.gpus.size(), 2 * largest);
  config.direct_hops = setup.direct_hops;
  if (setup.layers == Home::shared) config.arena_bytes = 2 * all;
  config.context_length = kContext;
  config.kv_blocks = {40};
  config.max_rows = 48;
  config.max_logit_rows = 24;
  config.poison = true;
  config.prefix_reuse = false;
  config.hooks = setup.feeder;
  config.skip_hop_wait = setup.skip_hop_wait;
  Loaded loaded;
  std::vector<std::unique_ptr<Backend>> backends;
  for (const int gpu : setup.gpus) {
    auto device = std::make_unique<DelayedDevice>(create_cuda_backend(gpu), setup.delays, setup.gpu, setup.executor);
    loaded.gpu = device->seen();
    backends.push_back(std::move(device));
  }
  std::unique_ptr<DelayedDevice> cpu;
  if (setup.beside_cpu) {
    CpuStreamHooks hooks;
    if (setup.cpu_delay.count() > 0) {
      hooks.before_compute = [delay = setup.cpu_delay] { std::this_thread::sleep_for(delay); };
    }
    cpu = std::make_unique<DelayedDevice>(create_cpu_backend(2, hooks), Delays{}, setup.cpu);
    loaded.cpu = cpu->seen();
  }
  loaded.model = std::make_shared<Model>(Engine::next_id(), std::move(backends), host, config, std::move(cpu));
  return loaded;
}

Run run(Engine& engine, const std::shared_ptr<const HostModel>& host, const Setup& setup) {
  const Loaded loaded = load(host, setup);
  engine.add(loaded.model);
  const auto sink = std::make_shared<Collector>();
  Run out;
  out.result = sink->wait(engine.submit(loaded.model, question(), sink));
  close_and_wait(engine, loaded.model);
  out.gpu_receives = loaded.gpu->receives;
  out.published = loaded.gpu->published;
  out.copy_waits = loaded.gpu->copy_waits;
  if (loaded.cpu) out.cpu_receives = loaded.cpu->receives;
  return out;
}

// A wait left out is a race, which either side may lose by chance: it must show within a few tries, each slower than
// the one before.
template <typename Differs>
bool shows(Differs differs) {
  for (const milliseconds delay : {milliseconds(3), milliseconds(12), milliseconds(48)}) {
    if (differs(delay)) return true;
  }
  return false;
}

#define CHECK_SHOWS(differs, what, wait)                                                                \
  do {                                                                                                  \
    if (!shows(differs)) {                                                                              \
      check::fail(__FILE__, __LINE__,                                                                   \
                  format("%s %lld is left out and nothing shows", what, static_cast<long long>(wait))); \
    }                                                                                                   \
  } while (false)

}  // namespace

TEST(delays_alone_change_no_bits) {
  const int gpus = require_gpus();
  Watchdog watchdog(std::chrono::seconds(60));
  const auto host = small_model(1);
  Engine engine;
  Setup resident;
  resident.layers = Home::resident;
  const Result expected = run(engine, host, resident).result;
  REQUIRE(expected.finish == Finish::length);
  REQUIRE(expected.tokens.size() == kTokens);
  Setup streamed;
  CHECK(same(run(engine, host, streamed).result, expected));
  streamed.delays.copies = milliseconds(3);
  streamed.delays.gated = true;
  CHECK(same(run(engine, host, streamed).result, expected));
  streamed.delays = {microseconds(0), milliseconds(3), false};
  CHECK(same(run(engine, host, streamed).result, expected));
  Setup shared;
  shared.layers = Home::shared;
  shared.delays.copies = milliseconds(3);
  CHECK(same(run(engine, host, shared).result, expected));
  Setup late;
  late.executor.late_publish_us = 2000;
  CHECK(same(run(engine, host, late).result, expected));
  Setup spread;
  spread.delays.compute = milliseconds(3);
  for (const bool direct : {true, false}) {
    for (const int other : {0, gpus - 1}) {
      spread.gpus = {0, other};
      spread.direct_hops = direct;
      CHECK(same(run(engine, host, spread).result, expected));
    }
  }
  // Through the window of pinned memory that threads fill.
  const auto pageable = small_model(1, false);
  Setup staged;
  staged.delays.copies = milliseconds(1);
  CHECK(same(run(engine, pageable, staged).result, expected));
}

TEST(every_ready_and_every_free_wait_is_needed) {
  require_gpus();
  Watchdog watchdog(std::chrono::seconds(180));
  const auto host = small_model(2);
  Engine engine;
  const Run whole = run(engine, host, {});
  const Result& expected = whole.result;
  REQUIRE(expected.finish == Finish::length);
  const auto units = static_cast<int64_t>(host->units().size());
  for (int64_t wait = 0; wait < kTokens * units; wait++) {
    watchdog.at(format("ready %lld", static_cast<long long>(wait)));
    const auto differs = [&](milliseconds delay) {
      Setup slow_copies;
      slow_copies.delays.copies = delay;
      slow_copies.delays.gated = true;
      slow_copies.feeder.skip_ready_wait = wait;
      return !same(run(engine, host, slow_copies).result, expected);
    };
    CHECK_SHOWS(differs, "ready", wait);
  }
  // Some slots wait for what another one has waited for already.
  CHECK(whole.copy_waits >= 2 * static_cast<uint64_t>(units));
  for (int64_t wait = 0; wait < static_cast<int64_t>(whole.copy_waits); wait++) {
    watchdog.at(format("free %lld", static_cast<long long>(wait)));
    const auto differs = [&](milliseconds delay) {
      Setup slow_compute;
      slow_compute.delays.compute = delay;
      slow_compute.feeder.skip_free_wait = wait;
      return !same(run(engine, host, slow_compute).result, expected);
    };
    CHECK_SHOWS(differs, "free", wait);
  }
}

TEST(every_wait_for_a_unit_of_the_arena_is_needed) {
  require_gpus();
  Watchdog watchdog(std::chrono::seconds(60));
  const auto host = small_model(3);
  Engine engine;
  const Result expected = run(engine, host, {}).result;
  REQUIRE(expected.finish == Finish::length);
  for (int64_t wait = 0; wait < static_cast<int64_t>(host->units().size()); wait++) {
    watchdog.at(format("place %lld", static_cast<long long>(wait)));
    const auto differs = [&](milliseconds delay) {
      Setup slow_copies;
      slow_copies.layers = Home::shared;
      slow_copies.delays.copies = delay;
      slow_copies.delays.gated = true;
      slow_copies.feeder.skip_place_wait = wait;
      return !same(run(engine, host, slow_copies).result, expected);
    };
    CHECK_SHOWS(differs, "place", wait);
  }
}

// Kernels may read ahead what has long been where it is. An address that has only just been published has not: whoever
// reads it early finds the slot of the pass before.
TEST(no_new_address_may_be_read_early) {
  require_gpus();
  cudaDeviceProp properties{};
  REQUIRE(cudaGetDeviceProperties(&properties, 0) == cudaSuccess);
  if (properties.major < 9) SKIP("kernels begin before their predecessor has ended from sm_90 on");
  Watchdog watchdog(std::chrono::seconds(60));
  const auto host = small_model(4);
  Engine engine;
  const Run whole = run(engine, host, {});
  REQUIRE(whole.result.finish == Finish::length);
  const auto units = static_cast<int64_t>(host->units().size());
  const auto published = static_cast<int64_t>(whole.published);
  // In the first pass there is no older address that could be read.
  CHECK(published > units + units / 2);
  for (int64_t address = units; address < published; address++) {
    watchdog.at(format("address %lld", static_cast<long long>(address)));
    const auto differs = [&](milliseconds delay) {
      Setup late;
      late.executor.late_publish_us = static_cast<int>(microseconds(delay).count());
      late.executor.early_publish = address;
      return !same(run(engine, host, late).result, whole.result);
    };
    CHECK_SHOWS(differs, "the rule of early reads for address", address);
  }
}

TEST(every_ticket_of_a_hop_is_needed) {
  require_gpus();
  Watchdog watchdog(std::chrono::seconds(60));
  const auto host = small_model(5);
  Engine engine;
  Setup whole;
  whole.beside_cpu = true;
  const Run expected = run(engine, host, whole);
  REQUIRE(expected.result.finish == Finish::length);
  Setup slow = whole;
  slow.cpu_delay = milliseconds(2);
  slow.delays.compute = milliseconds(2);
  CHECK(same(run(engine, host, slow).result, expected.result));
  // Two units on the CPU, in each pass of a token but the prompt's.
  CHECK_EQ(expected.gpu_receives, 2u * (kTokens - 1));
  CHECK_EQ(expected.cpu_receives, 2u * (kTokens - 1));
  for (int64_t ticket = 0; ticket < 2 * (kTokens - 1); ticket++) {
    watchdog.at(format("ticket %lld of the CPU's rows", static_cast<long long>(ticket)));
    const auto by_gpu = [&](milliseconds delay) {
      Setup slow_cpu = whole;
      slow_cpu.cpu_delay = delay;
      slow_cpu.gpu.receive = ticket;
      return !same(run(engine, host, slow_cpu).result, expected.result);
    };
    CHECK_SHOWS(by_gpu, "the GPU's wait for ticket", ticket);
    watchdog.at(format("ticket %lld of the GPU's rows", static_cast<long long>(ticket)));
    const auto by_cpu = [&](milliseconds delay) {
      Setup slow_gpu = whole;
      slow_gpu.delays.compute = delay;
      slow_gpu.cpu.receive = ticket;
      return !same(run(engine, host, slow_gpu).result, expected.result);
    };
    CHECK_SHOWS(by_cpu, "the CPU's wait for ticket", ticket);
  }
}

// A ticket that never comes holds the GPU until the hop is given up, and no longer; then the model serves on.
TEST(a_ticket_that_never_comes_is_given_up) {
  require_gpus();
  Watchdog watchdog(std::chrono::seconds(60));
  const auto host = small_model(6);
  Engine engine;
  Setup whole;
  whole.beside_cpu = true;
  const Result expected = run(engine, host, whole).result;
  Setup silent = whole;
  silent.cpu.send = 1;
  const Loaded loaded = load(host, silent);
  engine.add(loaded.model);
  const auto sink = std::make_shared<Collector>();
  const uint64_t request = engine.submit(loaded.model, question(), sink);
  while (loaded.gpu->receives < 2) std::this_thread::sleep_for(milliseconds(1));
  watchdog.at("the GPU waits for a ticket that never comes");
  std::this_thread::sleep_for(milliseconds(200));
  CHECK(sink->tokens_of(request) < static_cast<size_t>(kTokens));
  HopState& state = *loaded.gpu->receives_from.load();
  state.given_up = 1;
  CHECK(!same(sink->wait(request), expected));
  state.given_up = 0;
  watchdog.at("the request after it");
  CHECK(same(sink->wait(engine.submit(loaded.model, question(), sink)), expected));
  close_and_wait(engine, loaded.model);
}

TEST(every_wait_for_rows_of_another_device_is_needed) {
  const int gpus = require_gpus();
  Watchdog watchdog(std::chrono::seconds(120));
  const auto host = small_model(7);
  Engine engine;
  const Result expected = run(engine, host, {}).result;
  REQUIRE(expected.finish == Finish::length);
  Setup spread;
  spread.gpus = {0, gpus - 1};  // with one GPU: two sides of it
  for (const bool direct : {true, false}) {
    spread.direct_hops = direct;
    for (int64_t wait = 0; wait < 2 * kTokens; wait++) {  // there and back in each pass
      watchdog.at(format("rows %lld, %s", static_cast<long long>(wait), direct ? "direct" : "by the host"));
      const auto differs = [&](milliseconds delay) {
        Setup slow = spread;
        slow.delays.compute = delay;
        slow.skip_hop_wait = wait;
        return !same(run(engine, host, slow).result, expected);
      };
      CHECK_SHOWS(differs, "the wait for rows", wait);
    }
  }
}
