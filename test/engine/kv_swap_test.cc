// System RAM for preempted sequences: never more than the cap, pinned in advance, computed again beyond it.
#include "engine/kv_swap.h"

#include <set>

#include "harness.h"

using namespace millrace;

namespace {

class Gate {
 public:
  void open() {
    open_.store(true);
    open_.notify_all();
  }
  void pass() const { open_.wait(false); }

 private:
  std::atomic<bool> open_{false};
};

std::vector<RequestOptions> four_that_grow() {
  std::vector<RequestOptions> requests(4);
  for (int i = 0; i < 4; i++) {
    for (int t = 0; t < 40; t++) requests[i].tokens.push_back((t * 11 + i * 29) % 97);
    requests[i].max_tokens = 100;
    requests[i].logprobs = true;
    requests[i].temperature = 0.7f;
    requests[i].seed = i;
  }
  return requests;
}

// Tells after every step how much is saved, and which thread runs the engine.
class Watch final : public EventSink {
 public:
  explicit Watch(const Model& model) : model_(model) {}
  void post(TokenEvent&&) override {}
  void post_step(const StepEvent&) override {
    engine_ = std::this_thread::get_id();
    most_ = std::max<uint64_t>(most_, model_.counters().saved_kv_bytes.load());
  }
  void flush() override {}
  uint64_t most() const { return most_; }
  std::thread::id engine() const { return engine_; }

 private:
  const Model& model_;
  std::atomic<uint64_t> most_{0};
  std::atomic<std::thread::id> engine_{};
};

// A device that reads no memory of the host's but what is pinned.
class PinnedDevice final : public Backend {
 public:
  struct Told {
    std::atomic<size_t> host_allocations{0}, pinned{0};
    std::mutex mutex;
    std::set<std::thread::id> pinners;  // under the mutex
  };
  explicit PinnedDevice(std::shared_ptr<Told> told) : inner_(create_cpu_backend(2)), told_(std::move(told)) {}
  const char* name() const override { return "pinned"; }
  bool reads_host_memory() const override { return false; }
  bool reaches(const Backend&) override { return false; }
  std::unique_ptr<Memory> allocate(size_t bytes, const char* what) override { return inner_->allocate(bytes, what); }
  std::unique_ptr<Memory> allocate_host(size_t bytes, const char* what) override {
    told_->host_allocations++;
    return inner_->allocate_host(bytes, what);
  }
  Pinner pinner() override {
    return [told = told_](std::byte*, size_t bytes) {
      told->pinned += bytes;
      std::lock_guard lock(told->mutex);
      told->pinners.insert(std::this_thread::get_id());
      return std::make_unique<Pin>();
    };
  }
  std::unique_ptr<Stream> create_stream() override { return inner_->create_stream(); }
  std::unique_ptr<Event> create_event(EventUse use) override { return inner_->create_event(use); }
  std::unique_ptr<Executor> create_executor(const ExecutorConfig& config) override {
    return inner_->create_executor(config);
  }

 private:
  std::unique_ptr<Backend> inner_;
  std::shared_ptr<Told> told_;
};

}  // namespace

TEST(slots_are_lent_once_and_never_more_than_there_are) {
  constexpr size_t kSlot = 3000;
  KvSwap swap(10 * kSlot + 2999, kSlot, {});
  CHECK_EQ(swap.bytes(), 10 * kSlot);
  std::vector<int32_t> first, second, third;
  CHECK(swap.take(4, first));
  CHECK(swap.take(6, second));
  CHECK(!swap.take(1, third));
  CHECK(third.empty());
  CHECK_EQ(swap.used_bytes(), 10 * kSlot);
  std::set<std::byte*> places;
  for (const auto* slots : {&first, &second}) {
    for (const int32_t slot : *slots) {
      std::memset(swap.data(slot), slot, kSlot);
      places.insert(swap.data(slot));
    }
  }
  CHECK_EQ(places.size(), 10u);
  for (const auto* slots : {&first, &second}) {
    for (const int32_t slot : *slots) {
      for (size_t i = 0; i < kSlot; i++) REQUIRE(swap.data(slot)[i] == static_cast<std::byte>(slot));
    }
  }
  swap.give_back(first);
  CHECK(first.empty());
  CHECK(!swap.take(5, third));
  CHECK(swap.take(4, third));
  CHECK(swap.take(0, first));
  swap.give_back(second);
  swap.give_back(third);
  CHECK_EQ(swap.used_bytes(), 0u);
}

TEST(sizes_that_leave_no_slot) {
  std::vector<int32_t> slots;
  for (const size_t bytes : {size_t{0}, size_t{99}, size_t{1} << 60}) {  // none, too little, beyond all addresses
    KvSwap swap(bytes, bytes == size_t{1} << 60 ? size_t{1} << 40 : 100, {});
    CHECK_EQ(swap.bytes(), 0u);
    CHECK(!swap.take(1, slots));
    CHECK(swap.take(0, slots));
  }
}

TEST(a_slot_serves_once_its_part_is_pinned) {
  constexpr size_t kSlot = size_t{40} << 20;  // one a part; reserved, never written
  Gate second, third;
  std::atomic<int> parts{0};
  const Pinner pinner = [&](std::byte* data, size_t bytes) {
    CHECK_EQ(reinterpret_cast<uintptr_t>(data) % 4096, 0u);
    CHECK_EQ(bytes, kSlot);
    const int part = parts++;
    if (part == 1) second.pass();
    if (part == 2) third.pass();
    return part == 2 ? nullptr : std::make_unique<Pin>();
  };
  KvSwap swap(4 * kSlot, kSlot, pinner);
  std::vector<int32_t> slots;
  while (!swap.take(1, slots)) std::this_thread::yield();
  CHECK(!swap.take(1, slots));
  second.open();
  while (!swap.take(1, slots)) std::this_thread::yield();
  swap.give_back(slots);
  CHECK(swap.take(2, slots));
  third.open();
  swap.wait_until_pinned();  // refused: the system allows no more
  CHECK_EQ(parts.load(), 3);
  CHECK(!swap.take(1, slots));
  swap.give_back(slots);
  CHECK(!swap.take(3, slots));
  CHECK(swap.take(2, slots));
}

// Whatever the cap, the same bits; never more is saved, and what finds no room is computed again.
TEST(preempted_keys_and_values_keep_within_the_cap) {
  const auto host = tiny_model(16);
  const size_t block = host->program().layers() * kv_block_bytes(host->program().kv[0]);
  Engine engine;
  const auto sink = std::make_shared<Collector>();
  const std::vector<RequestOptions> requests = four_that_grow();
  std::vector<Result> alone;
  const auto roomy = make_model(host, {});
  engine.add(roomy);
  for (const RequestOptions& options : requests) alone.push_back(sink->wait(engine.submit(roomy, options, sink)));
  close_and_wait(engine, roomy);
  for (const int cap : {0, 5, 200}) {
    Placement small;
    small.kv_blocks = 12;
    small.kv_swap_blocks = cap;
    small.prefix_reuse = false;
    const auto model = make_model(host, small);
    CHECK_EQ(model->memory().kv_swap_bytes, cap * block);
    engine.add(model);
    const auto watch = std::make_shared<Watch>(*model);
    engine.observe(model, watch);
    std::vector<uint64_t> ids;
    for (const RequestOptions& options : requests) ids.push_back(engine.submit(model, options, sink));
    for (size_t i = 0; i < ids.size(); i++) check_same(sink->wait(ids[i]), alone[i]);
    close_and_wait(engine, model);
    const uint64_t preempted = model->counters().preemptions.load(), again = model->counters().recomputations.load();
    CHECK(preempted > 0u);
    CHECK(watch->most() <= cap * block);
    CHECK_EQ(watch->most() > 0, cap > 0);
    if (cap == 0) CHECK_EQ(again, preempted);
    if (cap == 5) CHECK(again > 0u && again < preempted);
    if (cap == 200) CHECK_EQ(again, 0u);
    CHECK_EQ(model->counters().saved_kv_bytes.load(), 0u);
  }
}

TEST(nothing_is_pinned_while_a_step_waits) {
  const auto host = tiny_model(16);
  Engine engine;
  const auto sink = std::make_shared<Collector>();
  Placement small;
  small.kv_blocks = 12;
  small.prefix_reuse = false;
  const ModelConfig config = make_model(host, small)->config();
  const auto told = std::make_shared<PinnedDevice::Told>();
  const auto model = std::make_shared<Model>(Engine::next_id(), std::make_unique<PinnedDevice>(told), host, config);
  while (told->pinned.load() < model->memory().kv_swap_bytes) std::this_thread::yield();
  const size_t allocations = told->host_allocations, pinned = told->pinned;
  engine.add(model);
  const auto watch = std::make_shared<Watch>(*model);
  engine.observe(model, watch);
  std::vector<uint64_t> ids;
  for (const RequestOptions& options : four_that_grow()) ids.push_back(engine.submit(model, options, sink));
  for (const uint64_t id : ids) CHECK(sink->wait(id).finish == Finish::length);
  CHECK(model->counters().preemptions.load() > 0u);
  CHECK_EQ(model->counters().recomputations.load(), 0u);
  CHECK_EQ(told->host_allocations.load(), allocations);
  CHECK_EQ(told->pinned.load(), pinned);
  close_and_wait(engine, model);
  std::lock_guard lock(told->mutex);
  CHECK(!told->pinners.contains(watch->engine()));
  CHECK(!told->pinners.contains(std::this_thread::get_id()));
}

// While a sequence's keys and values come back, those that run go on; it joins them once all of it is there.
TEST(others_go_on_while_keys_and_values_come_back) {
  const auto host = tiny_model(16);
  Engine engine;
  const auto sink = std::make_shared<Collector>();
  const auto text = [](int priority, int prompt, int tokens) {
    RequestOptions options;
    for (int t = 0; t < prompt; t++) options.tokens.push_back((t * 11 + prompt) % 97);
    options.max_tokens = tokens;
    options.logprobs = true;
    options.priority = priority;
    return options;
  };
  const RequestOptions grows = text(10, 60, 60), stays = text(10, 4, 150), low = text(-10, 64, 90);
  std::vector<Result> alone;
  const auto roomy = make_model(host, {});
  engine.add(roomy);
  for (const auto& options : {grows, stays, low}) alone.push_back(sink->wait(engine.submit(roomy, options, sink)));
  close_and_wait(engine, roomy);

  std::atomic<uint64_t> first{0};
  Gate gate;
  Placement small;
  small.kv_blocks = 16;
  small.prefix_reuse = false;
  small.stream_hooks = unhurried();
  small.stream_hooks.before_copy = [&] {
    if (first != 0 && sink->ended(first)) gate.pass();  // what goes out goes; what comes back is held
  };
  const auto model = make_model(host, small);
  engine.add(model);
  const uint64_t ids[] = {engine.submit(model, grows, sink), engine.submit(model, stays, sink),
                          engine.submit(model, low, sink)};
  const auto sleep = [] { std::this_thread::sleep_for(std::chrono::microseconds(200)); };
  first = ids[0];
  check_same(sink->wait(ids[0]), alone[0]);
  CHECK(model->counters().preemptions.load() > 0u);
  while (model->counters().preempted.load() > 0) sleep();
  const size_t held = sink->tokens_of(ids[2]), before = sink->tokens_of(ids[1]);
  while (sink->tokens_of(ids[1]) < before + 10) sleep();
  CHECK_EQ(sink->tokens_of(ids[2]), held);
  gate.open();
  check_same(sink->wait(ids[1]), alone[1]);
  check_same(sink->wait(ids[2]), alone[2]);
  CHECK_EQ(model->counters().recomputations.load(), 0u);
  close_and_wait(engine, model);
}

// A block whose copy to system RAM is under way, and one that comes from there: whoever computes with it without
// waiting for the copy computes something else.
TEST(passes_need_every_wait_for_keys_and_values) {
  if (kRaceDetector) SKIP("the race that this test makes on purpose is what ThreadSanitizer reports");
  const auto host = tiny_model(16);
  Engine engine;
  const auto sink = std::make_shared<Collector>();
  const std::vector<RequestOptions> requests = four_that_grow();
  std::vector<Result> alone;
  const auto roomy = make_model(host, {});
  engine.add(roomy);
  for (const RequestOptions& options : requests) alone.push_back(sink->wait(engine.submit(roomy, options, sink)));
  close_and_wait(engine, roomy);
  const auto same = [&](const KvHooks& hooks, int milliseconds) {
    Placement small;
    small.kv_blocks = 12;
    small.prefix_reuse = false;
    small.kv_hooks = hooks;
    small.stream_hooks.before_copy = [=] { std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds)); };
    const auto model = make_model(host, small);
    engine.add(model);
    std::vector<uint64_t> ids;
    for (const RequestOptions& options : requests) ids.push_back(engine.submit(model, options, sink));
    bool equal = true;
    for (size_t i = 0; i < ids.size(); i++) {
      const Result result = sink->wait(ids[i]);
      equal = equal && result.tokens == alone[i].tokens && result.logprobs == alone[i].logprobs;
    }
    CHECK(model->counters().preemptions.load() > 0u);
    close_and_wait(engine, model);
    return equal;
  };
  CHECK(same({}, 1));
  const auto shows = [&](int64_t KvHooks::*wait) {
    for (int milliseconds = 1; milliseconds <= 4; milliseconds *= 2) {
      for (int64_t nth = 0; nth < 6; nth++) {
        KvHooks hooks;
        hooks.*wait = nth;
        if (!same(hooks, milliseconds)) return true;
      }
    }
    return false;
  };
  CHECK(shows(&KvHooks::skip_reuse_wait));
  CHECK(shows(&KvHooks::skip_arrival_wait));
}
