#pragma once
// What tests of the engine share: models on the twin in any placement, requests at random, and what came of them.
#include <condition_variable>
#include <cstring>
#include <map>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "check.h"
#include "core/error.h"
#include "engine/engine.h"
#include "tiny_model.h"

namespace millrace {

inline constexpr int kContext = 160;

struct Result {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs, logits, embedding, top_logprobs;
  std::vector<int32_t> top_tokens;
  Finish finish = Finish::none;
  std::string error_code, error_message, error_remedy;
  int drafted = 0, accepted = 0;
};

// Collects events; wait() blocks until a request has ended.
class Collector : public EventSink {
 public:
  void post(TokenEvent&& event) override {
    std::lock_guard lock(mutex_);
    Result& result = results_[event.request];
    if (result.finish != Finish::none) after_end_++;
    result.tokens.insert(result.tokens.end(), event.tokens.begin(), event.tokens.end());
    result.logprobs.insert(result.logprobs.end(), event.logprobs.begin(), event.logprobs.end());
    result.logits.insert(result.logits.end(), event.logits.begin(), event.logits.end());
    result.embedding.insert(result.embedding.end(), event.embedding.begin(), event.embedding.end());
    result.top_tokens.insert(result.top_tokens.end(), event.top_tokens.begin(), event.top_tokens.end());
    result.top_logprobs.insert(result.top_logprobs.end(), event.top_logprobs.begin(), event.top_logprobs.end());
    result.finish = event.finish;
    result.drafted = event.drafted_tokens;
    result.accepted = event.accepted_tokens;
    result.error_code = event.error_code;
    result.error_message = event.error_message;
    result.error_remedy = event.error_remedy;
  }
  void post_step(const StepEvent& event) override {
    std::lock_guard lock(mutex_);
    steps_.push_back(event);
  }
  void flush() override { changed_.notify_all(); }

  Result wait(uint64_t request) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] {
      const auto it = results_.find(request);
      return it != results_.end() && it->second.finish != Finish::none;
    });
    return results_[request];
  }
  bool ended(uint64_t request) {
    std::lock_guard lock(mutex_);
    return results_[request].finish != Finish::none;
  }
  size_t tokens_of(uint64_t request) {
    std::lock_guard lock(mutex_);
    return results_[request].tokens.size();
  }
  std::vector<StepEvent> steps() {
    std::lock_guard lock(mutex_);
    return steps_;
  }
  int after_end() {
    std::lock_guard lock(mutex_);
    return after_end_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<uint64_t, Result> results_;
  std::vector<StepEvent> steps_;
  int after_end_ = 0;
};

struct Placement {
  Home layers = Home::resident;
  bool mixed = false;
  bool head_streamed = false;
  // The feed-forwards of the first and the last layer compute on a twin of their own.
  bool cpu_feed_forwards = false;
  int max_rows = 48;
  int max_logit_rows = 24;
  int threads = 2;
  int kv_blocks = 40;
  int windowed_kv_blocks = 40;  // of a second class
  int draft_states = 8;
  int kv_swap_blocks = 80;
  KvType kv_type = KvType::f16;
  bool poison = false;
  bool prefix_reuse = true;
  int max_queue = 0;
  FeederHooks hooks;
  CpuStreamHooks stream_hooks;
  CpuStreamHooks cpu_hooks;  // of the twin that computes beside the devices
  int devices = 1;           // layers alternate, the head is where the last one is
  bool scatter = false;      // units lie on the devices in no order at all
  int64_t skip_hop_wait = -1;
  KvHooks kv_hooks;
  StepsAhead ahead = StepsAhead::never;
  int logit_table_entries = kLogitTableEntries;
  std::vector<double> pass_costs;
  std::function<void(const Sequence&, int, std::vector<int32_t>&)> draft;
  std::shared_ptr<DraftModel> draft_model;
};

// Steps of about two milliseconds, so that a request lasts long enough for something to happen meanwhile.
inline CpuStreamHooks unhurried() {
  CpuStreamHooks hooks;
  hooks.before_compute = [] { std::this_thread::sleep_for(std::chrono::microseconds(200)); };
  return hooks;
}

inline std::shared_ptr<Model> make_model(const std::shared_ptr<const HostModel>& host, const Placement& placement) {
  ModelConfig config;
  size_t largest = 1;
  for (size_t unit = 0; unit < host->units().size(); unit++) {
    const UnitLayout& layout = host->units()[unit];
    const ProgramUnit& described = host->program().units[unit];
    Home home = placement.layers;
    if (placement.mixed && described.layer == 1) home = Home::resident;
    if (placement.cpu_feed_forwards && host->program().stands_alone(static_cast<int>(unit)) && described.layer != 1)
      home = Home::cpu;
    if (described.head) home = placement.head_streamed ? Home::streamed : Home::resident;
    config.homes.push_back(home);
    if (home != Home::resident) largest = std::max(largest, layout.bytes);
  }
  config.ring_bytes.assign(placement.devices, 2 * largest);
  for (size_t unit = 0; placement.devices > 1 && unit < host->units().size(); unit++) {
    const int layer = host->program().units[unit].layer;
    config.devices.push_back((placement.scatter ? static_cast<int>(unit * 5 / 3) : layer) % placement.devices);
  }
  config.skip_hop_wait = placement.skip_hop_wait;
  config.context_length = kContext;
  config.kv_blocks = {placement.kv_blocks};
  config.draft_states = placement.draft_states;
  if (host->program().kv.size() > 1) config.kv_blocks.push_back(placement.windowed_kv_blocks);
  config.kv_swap_bytes =
      static_cast<size_t>(placement.kv_swap_blocks) * host->program().layers() * kv_block_bytes(host->program().kv[0]);
  config.kv_type = placement.kv_type;
  config.max_rows = placement.max_rows;
  config.max_logit_rows = placement.max_logit_rows;
  config.poison = placement.poison;
  config.prefix_reuse = placement.prefix_reuse;
  config.max_queue = placement.max_queue;
  config.hooks = placement.hooks;
  config.steps_ahead = placement.ahead;
  config.logit_table_entries = placement.logit_table_entries;
  config.kv_hooks = placement.kv_hooks;
  config.pass_costs = placement.pass_costs;
  config.watch_costs = false;  // of passes that a busy machine holds up
  config.draft = placement.draft;
  config.draft_model = placement.draft_model;
  std::vector<std::unique_ptr<Backend>> backends;
  for (int i = 0; i < placement.devices; i++) {
    backends.push_back(create_cpu_backend(placement.threads, placement.stream_hooks));
  }
  return std::make_shared<Model>(Engine::next_id(), std::move(backends), host, config,
                                 placement.cpu_feed_forwards ? create_cpu_backend(2, placement.cpu_hooks) : nullptr);
}

inline RequestOptions request(std::mt19937_64& random) {
  RequestOptions options;
  const int prompt = 1 + static_cast<int>(random() % 90);
  for (int i = 0; i < prompt; i++) options.tokens.push_back(static_cast<int32_t>(random() % 97));
  options.max_tokens = 1 + static_cast<int>(random() % 40);
  options.logprobs = true;
  options.seed = random() % 1000;
  if (random() % 2 == 0) {
    options.temperature = 0.8f;
    options.top_k = static_cast<int>(random() % 30);
    options.top_p = 0.95f;
    options.min_p = 0.02f;
    if (random() % 2 == 0) options.typical_p = 0.9f;
  }
  if (random() % 3 == 0) {
    options.repetition_penalty = 1.3f;
    options.presence_penalty = 0.2f;
    options.frequency_penalty = 0.1f;
  }
  if (random() % 4 == 0) options.logit_bias = {{static_cast<int32_t>(random() % 97), 2.0f}, {5, -3.0f}};
  if (random() % 3 == 0) options.top_logprobs = 1 + static_cast<int>(random() % 5);
  const uint64_t kind = random() % 5;
  if (kind == 0) {
    options.kind = RequestKind::score;
    options.logits = true;
  } else if (kind == 1) {
    options.kind = RequestKind::embed;
    options.pooling = prompt % 2 == 0 ? Pooling::mean : Pooling::last;
  } else if (prompt % 3 == 0) {
    options.min_tokens = options.max_tokens / 2;
    options.stop_tokens = {1, 5, 40};
  }
  return options;
}

inline void check_same(const Result& a, const Result& b) {
  CHECK(a.finish == b.finish);
  CHECK(a.tokens == b.tokens);
  CHECK_EQ(a.logprobs.size(), b.logprobs.size());
  CHECK(a.logprobs.empty() || std::memcmp(a.logprobs.data(), b.logprobs.data(), a.logprobs.size() * 4) == 0);
  CHECK(a.top_tokens == b.top_tokens);
  CHECK_EQ(a.top_logprobs.size(), b.top_logprobs.size());
  CHECK(a.top_logprobs.empty() ||
        std::memcmp(a.top_logprobs.data(), b.top_logprobs.data(), a.top_logprobs.size() * 4) == 0);
  CHECK_EQ(a.embedding.size(), b.embedding.size());
  CHECK(a.embedding.empty() || std::memcmp(a.embedding.data(), b.embedding.data(), a.embedding.size() * 4) == 0);
  CHECK_EQ(a.logits.size(), b.logits.size());
  CHECK(a.logits.empty() || std::memcmp(a.logits.data(), b.logits.data(), a.logits.size() * 4) == 0);
}

inline void close_and_wait(Engine& engine, const std::shared_ptr<Model>& model, bool drain = true) {
  std::mutex mutex;
  std::condition_variable changed;
  bool closed = false;
  engine.close(model, drain, std::chrono::seconds(60), [&] {
    std::lock_guard lock(mutex);
    closed = true;
    changed.notify_all();
  });
  std::unique_lock lock(mutex);
  changed.wait(lock, [&] { return closed; });
}

// Throws at a feed-forward, in the middle of the pass whose number is `fails`.
class FaultyExecutor : public Executor {
 public:
  FaultyExecutor(std::unique_ptr<Executor> inner, int fails, const char* error_code, int unit)
      : inner_(std::move(inner)), fails_(fails), error_code_(error_code), unit_(unit) {}
  void set_unit(Stream& stream, int unit, const std::byte* slab, bool permanent) override {
    inner_->set_unit(stream, unit, slab, permanent);
  }
  void set_experts(Stream& stream, std::span<const ExpertAddress> experts) override {
    inner_->set_experts(stream, experts);
  }
  void offer_frames(Stream& stream, std::span<std::byte* const> frames, bool anew) override {
    inner_->offer_frames(stream, frames, anew);
  }
  void begin(Stream& stream, const Step& step, StepOutput& output) override { inner_->begin(stream, step, output); }
  void embed(Stream& stream) override { inner_->embed(stream); }
  void run(Stream& stream, int unit, RowKind rows) override {
    if (unit == unit_ && passes_++ == fails_) throw Error(error_code_, "an injected fault", "none");
    inner_->run(stream, unit, rows);
  }
  void send(Stream& stream, const Hop& hop, int rows, uint64_t ticket) override {
    inner_->send(stream, hop, rows, ticket);
  }
  void receive(Stream& stream, const Hop& hop, int rows, uint64_t ticket) override {
    inner_->receive(stream, hop, rows, ticket);
  }
  void hand_over(Stream& stream, std::byte* rows) override { inner_->hand_over(stream, rows); }
  void take_over(Stream& stream, const std::byte* rows) override { inner_->take_over(stream, rows); }
  size_t carried_bytes() const override { return inner_->carried_bytes(); }
  void keep_hidden(Stream& stream) override { inner_->keep_hidden(stream); }
  void sample(Stream& stream) override { inner_->sample(stream); }
  void end(Stream& stream) override { inner_->end(stream); }
  void collect(StepOutput& output) override { inner_->collect(output); }
  const int32_t* choices() const override { return inner_->choices(); }
  bool may_follow(const Step& step) const override { return inner_->may_follow(step); }
  void abandon(Stream& stream) override { inner_->abandon(stream); }
  ExecutorCounters counters() const override { return inner_->counters(); }
  size_t workspace_bytes() const override { return inner_->workspace_bytes(); }

 private:
  std::unique_ptr<Executor> inner_;
  int passes_ = 0;
  int fails_;
  const char* error_code_;
  int unit_;
};

class FaultyBackend : public Backend {
 public:
  FaultyBackend(int fails, const char* error_code, int unit = 3)
      : inner_(create_cpu_backend(2, unhurried())), fails_(fails), error_code_(error_code), unit_(unit) {}
  const char* name() const override { return inner_->name(); }
  bool reads_host_memory() const override { return true; }
  bool reaches(const Backend& other) override { return inner_->reaches(other); }
  std::unique_ptr<Memory> allocate(size_t bytes, const char* what) override { return inner_->allocate(bytes, what); }
  std::unique_ptr<Memory> allocate_host(size_t bytes, const char* what) override {
    return inner_->allocate_host(bytes, what);
  }
  std::unique_ptr<Stream> create_stream() override { return inner_->create_stream(); }
  std::unique_ptr<Event> create_event(EventUse use) override { return inner_->create_event(use); }
  Pinner pinner() override { return inner_->pinner(); }
  std::unique_ptr<Executor> create_executor(const ExecutorConfig& config) override {
    return std::make_unique<FaultyExecutor>(inner_->create_executor(config), fails_, error_code_, unit_);
  }

 private:
  std::unique_ptr<Backend> inner_;
  int fails_;
  const char* error_code_;
  int unit_;
};

}  // namespace millrace
