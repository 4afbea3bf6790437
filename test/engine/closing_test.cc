// Memory that takes long to free is freed by the reclaiming thread: the engine's goes on with the other models, and
// whoever closed a model, or moved its memory, hears of it when the memory is gone.
#include <atomic>
#include <chrono>
#include <set>
#include <string>

#include "core/reclaimer.h"
#include "harness.h"

using namespace millrace;

namespace {

// Of all that is freed: on which threads, and not before it is opened.
struct Frees {
  std::atomic<bool> open{false};
  std::atomic<int> begun{0}, freed{0};
  std::mutex mutex;
  std::set<std::thread::id> threads;  // under the mutex

  void free() {
    begun++;
    open.wait(false);
    std::lock_guard lock(mutex);
    threads.insert(std::this_thread::get_id());
    freed++;
  }
  void release() {
    open = true;
    open.notify_all();
  }
};

class SlowMemory final : public Memory {
 public:
  SlowMemory(std::unique_ptr<Memory> inner, std::shared_ptr<Frees> frees)
      : inner_(std::move(inner)), frees_(std::move(frees)) {}
  ~SlowMemory() override { frees_->free(); }
  std::byte* data() const override { return inner_->data(); }
  size_t size() const override { return inner_->size(); }

 private:
  std::unique_ptr<Memory> inner_;
  std::shared_ptr<Frees> frees_;
};

class SlowDevice final : public Backend {
 public:
  SlowDevice(std::string name, std::shared_ptr<Frees> frees)
      : name_(std::move(name)), inner_(create_cpu_backend(1)), frees_(std::move(frees)) {}
  const char* name() const override { return name_.c_str(); }
  bool reads_host_memory() const override { return false; }
  bool reaches(const Backend&) override { return false; }
  std::unique_ptr<Memory> allocate(size_t bytes, const char* what) override {
    return std::make_unique<SlowMemory>(inner_->allocate(bytes, what), frees_);
  }
  std::unique_ptr<Memory> allocate_host(size_t bytes, const char* what) override {
    return std::make_unique<SlowMemory>(inner_->allocate_host(bytes, what), frees_);
  }
  Pinner pinner() override { return inner_->pinner(); }
  std::unique_ptr<Stream> create_stream() override { return inner_->create_stream(); }
  std::unique_ptr<Event> create_event(EventUse use) override { return inner_->create_event(use); }
  std::unique_ptr<Executor> create_executor(const ExecutorConfig& config) override {
    return inner_->create_executor(config);
  }

 private:
  std::string name_;
  std::unique_ptr<Backend> inner_;
  std::shared_ptr<Frees> frees_;
};

std::shared_ptr<Model> on_slow_device(const std::shared_ptr<const HostModel>& host, const std::string& name,
                                      const std::shared_ptr<Frees>& frees, Home home) {
  ModelConfig config = make_model(host, {})->config();
  size_t largest = 0, slabs = 0;
  for (const UnitLayout& unit : host->units()) {
    largest = std::max(largest, unit.bytes);
    slabs += unit.bytes;
  }
  config.homes.assign(host->units().size(), home);
  config.ring_bytes = {2 * largest};
  config.arena_bytes = home == Home::shared ? slabs : 0;
  return std::make_shared<Model>(Engine::next_id(), std::make_unique<SlowDevice>(name, frees), host, config);
}

RequestOptions greedy() {
  RequestOptions options;
  options.tokens = {5, 6, 7, 8};
  options.max_tokens = 20;
  options.logprobs = true;
  return options;
}

// False where it takes longer than any machine needs: something holds up the engine.
template <typename Done>
bool comes_true(Done&& done) {
  for (int i = 0; i < 20000; i++) {
    if (done()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return false;
}

}  // namespace

TEST(a_model_that_is_closed_holds_up_no_other) {
  Engine engine;
  const auto sink = std::make_shared<Collector>();
  const auto frees = std::make_shared<Frees>();
  auto weights = tiny_model(17);
  const auto unpins = std::make_shared<Frees>();
  struct SlowPin final : Pin {
    explicit SlowPin(std::shared_ptr<Frees> told) : frees(std::move(told)) {}
    ~SlowPin() override { frees->free(); }
    std::shared_ptr<Frees> frees;
  };
  weights->pin({[unpins](std::byte*, size_t) { return std::make_unique<SlowPin>(unpins); }, {}});
  weights->wait_until_pinned();
  auto closing = on_slow_device(weights, "slow-close", frees, Home::resident);
  weights.reset();  // the model has the last
  const auto other = make_model(tiny_model(18), {});
  engine.add(closing);
  engine.add(other);
  const Result expected = sink->wait(engine.submit(other, greedy(), sink));
  CHECK(sink->wait(engine.submit(closing, greedy(), sink)).finish == Finish::length);

  std::atomic<bool> closed{false};
  const int before = frees->begun;
  engine.close(closing, true, std::chrono::seconds(60), [&] { closed = true; });
  closing.reset();
  CHECK(comes_true([&] { return frees->begun > before; }));
  const uint64_t id = engine.submit(other, greedy(), sink);
  if (!comes_true([&] { return sink->ended(id); })) {
    check::fail(__FILE__, __LINE__, "the worker frees");
  }
  CHECK(!closed.load());
  frees->release();
  unpins->release();
  check_same(sink->wait(id), expected);
  CHECK(comes_true([&] { return closed.load(); }));
  CHECK(unpins->freed > 0);
  std::thread::id reclaiming;
  Reclaimer::process().post([&] { reclaiming = std::this_thread::get_id(); });
  Reclaimer::process().wait();
  for (const auto& told : {frees, unpins}) {
    std::lock_guard lock(told->mutex);
    CHECK_EQ(told->threads.size(), 1u);
    CHECK(told->threads.contains(reclaiming));
  }
  close_and_wait(engine, other);
}

TEST(memory_that_moves_holds_up_no_model) {
  const auto host = tiny_model(17);
  Engine engine;
  const auto sink = std::make_shared<Collector>();
  const auto frees = std::make_shared<Frees>();
  const auto moving = on_slow_device(host, "slow-move", frees, Home::resident);
  engine.add(moving);
  const Result expected = sink->wait(engine.submit(moving, greedy(), sink));
  std::atomic<bool> moved{false};
  const auto fails = [](const Error& error) { check::fail(__FILE__, __LINE__, error.what()); };
  const int before = frees->begun;
  engine.set_homes(
      moving, std::vector<Home>(host->units().size(), Home::streamed), moving->config().ring_bytes,
      [&](const std::vector<Home>&) { moved = true; }, fails);
  CHECK(comes_true([&] { return frees->begun > before; }));
  const uint64_t id = engine.submit(moving, greedy(), sink);
  if (!comes_true([&] { return sink->ended(id); })) {
    check::fail(__FILE__, __LINE__, "the worker frees");
  }
  CHECK(!moved.load());
  frees->release();
  check_same(sink->wait(id), expected);
  CHECK(comes_true([&] { return moved.load(); }));
  close_and_wait(engine, moving);
}

TEST(an_arena_that_shrinks_holds_up_no_model) {
  const auto host = tiny_model(17);
  Engine engine;
  const auto sink = std::make_shared<Collector>();
  const auto frees = std::make_shared<Frees>();
  const auto sharing = on_slow_device(host, "slow-arena", frees, Home::shared);
  engine.add(sharing);
  const Result expected = sink->wait(engine.submit(sharing, greedy(), sink));
  CHECK(sharing->counters().shared_bytes > 0u);
  std::atomic<bool> moved{false};
  const int before = frees->begun;
  engine.set_arena_limit(
      sharing, 0, [&] { moved = true; }, [](const Error& error) { check::fail(__FILE__, __LINE__, error.what()); });
  CHECK(comes_true([&] { return frees->begun > before; }));
  const uint64_t id = engine.submit(sharing, greedy(), sink);  // through the ring
  if (!comes_true([&] { return sink->ended(id); })) {
    check::fail(__FILE__, __LINE__, "the worker frees");
  }
  CHECK(!moved.load());
  frees->release();
  check_same(sink->wait(id), expected);
  CHECK(comes_true([&] { return moved.load(); }));
  close_and_wait(engine, sharing);
}
