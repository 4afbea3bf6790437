#include "addon/environment.h"

#include <algorithm>
#include <cstring>

namespace millrace {

namespace {

template <typename Array, typename T>
Array typed_array(Napi::Env env, const std::vector<T>& values) {
  Array array = Array::New(env, values.size());
  if (!values.empty()) std::memcpy(array.Data(), values.data(), values.size() * sizeof(T));
  return array;
}

const char* name_of(Finish finish) {
  switch (finish) {
    case Finish::stop:
      return "stop";
    case Finish::length:
      return "length";
    case Finish::abort:
      return "abort";
    case Finish::error:
      return "error";
    case Finish::none:
      break;
  }
  return "";
}

Napi::Object to_js(Napi::Env env, const TokenEvent& event) {
  Napi::Object out = Napi::Object::New(env);
  out["type"] = Napi::String::New(env, "tokens");
  out["model"] = Napi::Number::New(env, static_cast<double>(event.model));
  out["request"] = Napi::Number::New(env, static_cast<double>(event.request));
  out["tokens"] = typed_array<Napi::Int32Array>(env, event.tokens);
  if (!event.logprobs.empty()) out["logprobs"] = typed_array<Napi::Float32Array>(env, event.logprobs);
  if (!event.logits.empty()) out["logits"] = typed_array<Napi::Float32Array>(env, event.logits);
  if (event.finish == Finish::none) return out;
  out["finish"] = Napi::String::New(env, name_of(event.finish));
  if (event.finish == Finish::error) {
    Napi::Object error = Napi::Object::New(env);
    error["code"] = Napi::String::New(env, event.error_code);
    error["message"] = Napi::String::New(env, event.error_message);
    error["remedy"] = Napi::String::New(env, event.error_remedy);
    out["error"] = error;
  }
  Napi::Object timings = Napi::Object::New(env);
  timings["queueMs"] = Napi::Number::New(env, event.queue_ms);
  timings["firstTokenMs"] = Napi::Number::New(env, event.first_token_ms);
  timings["totalMs"] = Napi::Number::New(env, event.total_ms);
  out["timings"] = timings;
  return out;
}

}  // namespace

Napi::Error to_js(Napi::Env env, const Error& error) {
  Napi::Error out = Napi::Error::New(env, error.what());
  out.Set("code", Napi::String::New(env, error.code()));
  out.Set("remedy", Napi::String::New(env, error.remedy()));
  if (error.retry_after_ms > 0) out.Set("retryAfterMs", Napi::Number::New(env, error.retry_after_ms));
  return out;
}

void Channel::open(Napi::Env env) {
  // The function may be called once more after the environment has let go of the channel: it keeps it alive itself.
  wake_ = Wake::New(
      env, "millrace", 0, 1, this,
      [](Napi::Env, std::shared_ptr<Channel>* self, Channel*) { delete self; },
      new std::shared_ptr<Channel>(shared_from_this()));
  wake_.Unref(env);
  open_ = true;
}

void Channel::close() {
  std::lock_guard lock(mutex_);
  open_ = false;
  wake_.Abort();
  on_events_.Reset();
  events_.clear();
  tasks_.clear();
}

void Channel::wake() {
  if (woken_) return;
  woken_ = true;
  wake_.NonBlockingCall();
}

void Channel::post(TokenEvent&& event) {
  std::lock_guard lock(mutex_);
  if (open_) events_.push_back(std::move(event));
}

void Channel::flush() {
  std::lock_guard lock(mutex_);
  if (open_ && !events_.empty()) wake();
}

void Channel::run(Task task) {
  std::lock_guard lock(mutex_);
  if (!open_) return;
  tasks_.push_back(std::move(task));
  wake();
}

void Channel::deliver(Napi::Env env, Napi::Function, Channel* channel, void*) {
  if (env == nullptr) return;
  std::vector<TokenEvent> events;
  std::vector<Task> tasks;
  {
    std::lock_guard lock(channel->mutex_);
    channel->woken_ = false;
    if (!channel->open_) return;
    events.swap(channel->events_);
    tasks.swap(channel->tasks_);
  }
  Napi::HandleScope scope(env);
  // Tokens first: "closed" or "loaded" comes after what led to it.
  if (!events.empty() && !channel->on_events_.IsEmpty()) {
    Napi::Array batch = Napi::Array::New(env, events.size());
    for (size_t i = 0; i < events.size(); i++) batch[static_cast<uint32_t>(i)] = to_js(env, events[i]);
    channel->on_events_.Call({batch});
  }
  for (Task& task : tasks) {
    Napi::HandleScope inner(env);
    task(env);
  }
}

void Channel::hold(Napi::Env env) {
  if (held_++ == 0) wake_.Ref(env);
}

void Channel::drop(Napi::Env env) {
  if (held_ > 0 && --held_ == 0) wake_.Unref(env);
}

Environment::Environment(Napi::Env env) : channel_(std::make_shared<Channel>()) {
  channel_->open(env);
  // Added after the thread-safe function's own hook, so it runs before it: nothing is posted to a dead function. Does
  // not block: the engine and the loaders notice on their own threads.
  env.AddCleanupHook([this] { end(); });
}

void Environment::end() {
  for (const auto& [id, cancelled] : loads_) cancelled->store(true, std::memory_order_relaxed);
  for (const auto& [id, held] : models_) {
    if (const std::shared_ptr<Model> model = held.lock()) {
      Engine::process().close(model, false, std::chrono::milliseconds(0), [] {});
    }
  }
  Engine::process().detach(channel_);
  channel_->close();
}

std::shared_ptr<std::atomic<bool>> Environment::start_load(int64_t id) {
  std::erase_if(loads_, [](const auto& load) { return load.second.use_count() == 1; });
  auto cancelled = std::make_shared<std::atomic<bool>>(false);
  loads_[id] = cancelled;
  return cancelled;
}

void Environment::cancel_load(int64_t id) {
  if (const auto it = loads_.find(id); it != loads_.end()) it->second->store(true, std::memory_order_relaxed);
}

}  // namespace millrace
