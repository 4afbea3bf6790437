#pragma once
// What belongs to one JavaScript environment (the main thread or a worker): its one thread-safe function, the work it
// has under way, the models it holds. Process-wide state (engine, host store) is elsewhere.
#include <napi.h>

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "core/error.h"
#include "engine/engine.h"

namespace millrace {

// The way from any thread to the environment's JavaScript thread. Outlives the environment: what arrives after its end
// is dropped.
class Channel : public EventSink, public std::enable_shared_from_this<Channel> {
 public:
  using Task = std::function<void(Napi::Env)>;

  void open(Napi::Env env);
  void close();  // JavaScript thread, at the environment's end

  // EventSink; any thread.
  void post(TokenEvent&& event) override;
  void post_step(const StepEvent& event) override;
  void flush() override;
  // Runs `task` on the JavaScript thread, in a handle scope of its own.
  void run(Task task);

  // JavaScript thread: where token events go, and how many pending things keep the process alive.
  void listen(Napi::Function on_events) { on_events_ = Napi::Persistent(on_events); }
  Napi::FunctionReference& listener() { return on_events_; }
  void hold(Napi::Env env);
  void drop(Napi::Env env);

 private:
  static void deliver(Napi::Env env, Napi::Function, Channel* channel, void*);
  using Wake = Napi::TypedThreadSafeFunction<Channel, void, deliver>;
  void wake();  // with mutex_ held

  std::mutex mutex_;
  bool open_ = false;
  bool woken_ = false;
  // At most one event a request: what JavaScript has not taken yet is joined, so that a busy thread finds a few long
  // events and not many short ones.
  std::vector<TokenEvent> events_;
  std::unordered_map<uint64_t, size_t> event_of_;  // request -> index into events_
  std::vector<StepEvent> steps_;
  std::vector<Task> tasks_;
  Wake wake_;
  Napi::FunctionReference on_events_;  // JavaScript thread only
  int held_ = 0;                       // JavaScript thread only
};

class Environment {
 public:
  explicit Environment(Napi::Env env);
  static Environment& of(Napi::Env env) { return *env.GetInstanceData<Environment>(); }

  const std::shared_ptr<Channel>& channel() const { return channel_; }
  void adopt(const std::shared_ptr<Model>& model) { models_[model->id()] = model; }
  void forget(uint64_t model) { models_.erase(model); }

  // A flag that cancels the load of this id, for as long as the load holds it.
  std::shared_ptr<std::atomic<bool>> start_load(int64_t id);
  void cancel_load(int64_t id);

  Napi::FunctionReference model_class;
  Napi::FunctionReference vocabulary_class, constraint_class;
  Napi::FunctionReference lab_class;

 private:
  void end();

  std::shared_ptr<Channel> channel_;
  std::unordered_map<uint64_t, std::weak_ptr<Model>> models_;
  std::unordered_map<int64_t, std::shared_ptr<std::atomic<bool>>> loads_;
};

// A JavaScript Error with `code` and `remedy`.
Napi::Error to_js(Napi::Env env, const Error& error);

// Runs body(), turning what it throws into a JavaScript exception.
template <typename Body>
auto guarded(Napi::Env env, Body&& body) -> decltype(body()) {
  try {
    return body();
  } catch (const Napi::Error&) {
    throw;
  } catch (...) {
    throw to_js(env, current_error());
  }
}

// Runs `work` on a thread of its own (never libuv's: it may wait for a device) and settles the promise with
// settle(env, result) on the JavaScript thread. The process is kept alive meanwhile.
template <typename Result>
Napi::Promise run_async(Napi::Env env, std::function<Result()> work,
                        std::function<Napi::Value(Napi::Env, Result&)> settle) {
  auto deferred = std::make_shared<Napi::Promise::Deferred>(env);
  const std::shared_ptr<Channel> channel = Environment::of(env).channel();
  channel->hold(env);
  auto body = [work = std::move(work), settle = std::move(settle), deferred, channel]() mutable {
    auto result = std::make_shared<std::optional<Result>>();
    auto failure = std::make_shared<std::optional<Error>>();
    try {
      result->emplace(work());
    } catch (...) {
      failure->emplace(current_error());
    }
    work = nullptr;
    channel->run([result, failure, settle = std::move(settle), deferred, raw = channel.get()](Napi::Env at) {
      raw->drop(at);
      if (*failure) {
        deferred->Reject(to_js(at, **failure).Value());
        return;
      }
      try {
        deferred->Resolve(settle(at, **result));
      } catch (const Napi::Error& error) {
        deferred->Reject(error.Value());
      }
    });
  };
  try {
    std::thread(std::move(body)).detach();
  } catch (...) {
    channel->drop(env);
    throw to_js(env, current_error());
  }
  return deferred->Promise();
}

}  // namespace millrace
