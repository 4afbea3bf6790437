#pragma once
// A GPU whose copies or kernels come late and whose tickets are left out, for tests that prove each wait necessary.
// What is late is held up by host functions in its stream: the device runs nothing of the stream meanwhile.
#include <cuda_runtime_api.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string_view>
#include <utility>

#include "cuda/check.h"
#include "cuda/cuda_backend.h"
#include "cuda/runtime/stream.h"
#include "engine/harness.h"

namespace millrace {

struct Delays {
  std::chrono::microseconds copies{0};   // before each slab
  std::chrono::microseconds compute{0};  // before the kernels of each unit
  bool gated = false;                    // no slab is copied until a whole pass has been enqueued
};

// Of one executor, counted from its first.
struct Omissions {
  int64_t receive = -1;  // this receive() waits for no ticket
  int64_t send = -1;     // this ticket never comes
};

// Closed until it is opened, but for two seconds at most: nothing hangs on it.
class Gate {
 public:
  void open() {
    {
      std::lock_guard lock(mutex_);
      open_ = true;
    }
    opened_.notify_all();
  }
  void pass() {
    std::unique_lock lock(mutex_);
    opened_.wait_for(lock, std::chrono::seconds(2), [this] { return open_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable opened_;
  bool open_ = false;
};

// `work` on a thread of the driver's, in the stream's order. It must call nothing of CUDA's.
inline void enqueue_on_host(Stream& stream, std::function<void()> work) {
  auto& cuda = static_cast<cuda::CudaStream&>(stream);
  cuda.use_device();
  auto own = std::make_unique<std::function<void()>>(std::move(work));
  const auto run = [](void* data) {
    const std::unique_ptr<std::function<void()>> given(static_cast<std::function<void()>*>(data));
    (*given)();
  };
  cuda::check(cudaLaunchHostFunc(cuda.get(), run, own.get()), "a host function");
  own.release();
}

// What tests see of a model's streams and executors.
struct Seen {
  std::atomic<uint64_t> receives{0}, published{0}, copy_waits{0};
  std::atomic<HopState*> receives_from{nullptr};
};

class DelayedStream final : public Stream {
 public:
  DelayedStream(std::unique_ptr<Stream> inner, Delays delays, std::shared_ptr<Gate> gate, std::shared_ptr<Seen> seen)
      : inner_(std::move(inner)), delays_(delays), gate_(std::move(gate)), seen_(std::move(seen)) {}
  void copy(std::byte* destination, const std::byte* source, size_t bytes) override {
    if (delays_.gated || delays_.copies.count() > 0) {
      enqueue_on_host(*inner_, [delays = delays_, gate = gate_] {
        if (delays.gated) gate->pass();
        std::this_thread::sleep_for(delays.copies);
      });
    }
    inner_->copy(destination, source, bytes);
  }
  void fill(std::byte* destination, uint8_t value, size_t bytes) override { inner_->fill(destination, value, bytes); }
  void record(Event& event) override { inner_->record(event); }
  void wait(Event& event) override {
    seen_->copy_waits++;
    inner_->wait(event);
  }
  void synchronize() override { inner_->synchronize(); }

 private:
  std::unique_ptr<Stream> inner_;
  Delays delays_;
  std::shared_ptr<Gate> gate_;
  std::shared_ptr<Seen> seen_;
};

// Of a GPU or, beside one, of the twin (whose delays are its own hooks).
class DelayedExecutor final : public Executor {
 public:
  DelayedExecutor(std::unique_ptr<Executor> inner, std::chrono::microseconds delay, Omissions omissions,
                  std::shared_ptr<Gate> gate, std::shared_ptr<Seen> seen)
      : inner_(std::move(inner)),
        delay_(delay),
        omissions_(omissions),
        gate_(std::move(gate)),
        seen_(std::move(seen)) {}
  void set_unit(Stream& stream, int unit, const std::byte* slab, bool permanent) override {
    inner_->set_unit(stream, unit, slab, permanent);
    seen_->published = inner_->counters().published_addresses;
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
    pause(stream);
    inner_->run(stream, unit, rows);
  }
  void send(Stream& stream, const Hop& hop, int rows, uint64_t ticket) override {
    if (sends_++ != omissions_.send) inner_->send(stream, hop, rows, ticket);
  }
  void receive(Stream& stream, const Hop& hop, int rows, uint64_t ticket) override {
    seen_->receives_from = hop.state;
    const bool omitted = static_cast<int64_t>(seen_->receives++) == omissions_.receive;
    inner_->receive(stream, hop, rows, omitted ? 0 : ticket);  // the ticket that has always come
  }
  void hand_over(Stream& stream, std::byte* rows) override { inner_->hand_over(stream, rows); }
  void take_over(Stream& stream, const std::byte* rows) override { inner_->take_over(stream, rows); }
  size_t carried_bytes() const override { return inner_->carried_bytes(); }
  void keep_hidden(Stream& stream) override { inner_->keep_hidden(stream); }
  void sample(Stream& stream) override { inner_->sample(stream); }
  void end(Stream& stream) override {
    inner_->end(stream);
    gate_->open();
  }
  void collect(StepOutput& output) override { inner_->collect(output); }
  const int32_t* choices() const override { return inner_->choices(); }
  bool may_follow(const Step& step) const override { return inner_->may_follow(step); }
  void abandon(Stream& stream) override { inner_->abandon(stream); }
  ExecutorCounters counters() const override { return inner_->counters(); }
  size_t workspace_bytes() const override { return inner_->workspace_bytes(); }

 private:
  void pause(Stream& stream) {
    if (delay_.count() > 0) enqueue_on_host(stream, [delay = delay_] { std::this_thread::sleep_for(delay); });
  }

  std::unique_ptr<Executor> inner_;
  std::chrono::microseconds delay_;
  Omissions omissions_;
  std::shared_ptr<Gate> gate_;
  std::shared_ptr<Seen> seen_;
  int64_t sends_ = 0;
};

// `inner`: a GPU, or the twin beside one.
class DelayedDevice final : public Backend {
 public:
  DelayedDevice(std::unique_ptr<Backend> inner, Delays delays, Omissions omissions = {}, ExecutorHooks hooks = {})
      : inner_(std::move(inner)), delays_(delays), omissions_(omissions), hooks_(hooks) {}
  const char* name() const override { return inner_->name(); }
  bool reads_host_memory() const override { return inner_->reads_host_memory(); }
  bool reaches(const Backend& other) override {
    const auto* delayed = dynamic_cast<const DelayedDevice*>(&other);
    return inner_->reaches(delayed == nullptr ? other : *delayed->inner_);
  }
  std::unique_ptr<Memory> allocate(size_t bytes, const char* what) override {
    auto memory = inner_->allocate(bytes, what);
    // What the device gives out anew may hold the very slab from the run before.
    for (const std::string_view weights : {"the ring", "a shared unit", "a resident unit"}) {
      if (what != weights) continue;
      const auto stream = inner_->create_stream();
      stream->fill(memory->data(), 0xff, bytes);
      stream->synchronize();
    }
    return memory;
  }
  std::unique_ptr<Memory> allocate_host(size_t bytes, const char* what) override {
    return inner_->allocate_host(bytes, what);
  }
  Pinner pinner() override { return inner_->pinner(); }
  const std::byte* mapped(const std::byte* host) override { return inner_->mapped(host); }
  // A model creates its compute stream first, which the executor must know as its own; then that of the copies.
  std::unique_ptr<Stream> create_stream() override {
    auto stream = inner_->create_stream();
    if (reads_host_memory() || streams_++ == 0) return stream;
    return std::make_unique<DelayedStream>(std::move(stream), delays_, gate_, seen_);
  }
  std::unique_ptr<Event> create_event(EventUse use) override { return inner_->create_event(use); }
  std::unique_ptr<Executor> create_executor(const ExecutorConfig& config) override {
    ExecutorConfig hooked = config;
    hooked.hooks = hooks_;
    const auto delay = reads_host_memory() ? std::chrono::microseconds(0) : delays_.compute;
    return std::make_unique<DelayedExecutor>(inner_->create_executor(hooked), delay, omissions_, gate_, seen_);
  }
  std::shared_ptr<Seen> seen() const { return seen_; }

 private:
  std::unique_ptr<Backend> inner_;
  Delays delays_;
  Omissions omissions_;
  ExecutorHooks hooks_;
  int streams_ = 0;
  std::shared_ptr<Gate> gate_ = std::make_shared<Gate>();
  std::shared_ptr<Seen> seen_ = std::make_shared<Seen>();
};

}  // namespace millrace
