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

// The newest steps that wait for JavaScript; more would only tell a busy thread that it is busy.
constexpr size_t kMaxSteps = 4096;

template <typename T>
void append(std::vector<T>& to, std::vector<T>&& more) {
  if (to.empty()) {
    to = std::move(more);
  } else {
    to.insert(to.end(), more.begin(), more.end());
  }
}

// `later` is the same request's next event.
void join(TokenEvent& event, TokenEvent&& later) {
  append(event.tokens, std::move(later.tokens));
  append(event.logprobs, std::move(later.logprobs));
  append(event.logits, std::move(later.logits));
  append(event.embedding, std::move(later.embedding));
  append(event.top_tokens, std::move(later.top_tokens));
  append(event.top_logprobs, std::move(later.top_logprobs));
  event.finish = later.finish;
  event.error_code = std::move(later.error_code);
  event.error_message = std::move(later.error_message);
  event.error_remedy = std::move(later.error_remedy);
  event.drafted_tokens = later.drafted_tokens;
  event.accepted_tokens = later.accepted_tokens;
  event.queue_ms = later.queue_ms;
  event.first_token_ms = later.first_token_ms;
  event.total_ms = later.total_ms;
}

Napi::Object to_js(Napi::Env env, const StepEvent& event) {
  Napi::Object out = Napi::Object::New(env);
  out["type"] = Napi::String::New(env, "step");
  out["model"] = Napi::Number::New(env, static_cast<double>(event.model));
  out["rows"] = Napi::Number::New(env, event.rows);
  out["decodeRows"] = Napi::Number::New(env, event.decode_rows);
  out["sequences"] = Napi::Number::New(env, event.sequences);
  out["waiting"] = Napi::Number::New(env, event.waiting);
  out["kvBlocksUsed"] = Napi::Number::New(env, event.kv_blocks_used);
  out["ms"] = Napi::Number::New(env, event.ms);
  return out;
}

Napi::Object to_js(Napi::Env env, const TokenEvent& event) {
  Napi::Object out = Napi::Object::New(env);
  out["type"] = Napi::String::New(env, "tokens");
  out["model"] = Napi::Number::New(env, static_cast<double>(event.model));
  out["request"] = Napi::Number::New(env, static_cast<double>(event.request));
  out["tokens"] = typed_array<Napi::Int32Array>(env, event.tokens);
  if (!event.logprobs.empty()) out["logprobs"] = typed_array<Napi::Float32Array>(env, event.logprobs);
  if (!event.logits.empty()) out["logits"] = typed_array<Napi::Float32Array>(env, event.logits);
  if (!event.embedding.empty()) out["embedding"] = typed_array<Napi::Float32Array>(env, event.embedding);
  if (!event.top_tokens.empty()) {
    out["topTokens"] = typed_array<Napi::Int32Array>(env, event.top_tokens);
    out["topLogprobs"] = typed_array<Napi::Float32Array>(env, event.top_logprobs);
  }
  if (event.finish == Finish::none) return out;
  out["finish"] = Napi::String::New(env, name_of(event.finish));
  if (event.finish == Finish::error) {
    Napi::Object error = Napi::Object::New(env);
    error["code"] = Napi::String::New(env, event.error_code);
    error["message"] = Napi::String::New(env, event.error_message);
    error["remedy"] = Napi::String::New(env, event.error_remedy);
    out["error"] = error;
  }
  out["draftedTokens"] = Napi::Number::New(env, event.drafted_tokens);
  out["acceptedTokens"] = Napi::Number::New(env, event.accepted_tokens);
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
      env, "millrace", 0, 1, this, [](Napi::Env, std::shared_ptr<Channel>* self, Channel*) { delete self; },
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
  event_of_.clear();
  steps_.clear();
  tasks_.clear();
}

void Channel::wake() {
  if (woken_) return;
  woken_ = true;
  wake_.NonBlockingCall();
}

void Channel::post(TokenEvent&& event) {
  std::lock_guard lock(mutex_);
  if (!open_) return;
  const auto [at, added] = event_of_.try_emplace(event.request, events_.size());
  if (added) {
    events_.push_back(std::move(event));
  } else {
    join(events_[at->second], std::move(event));
  }
}

void Channel::post_step(const StepEvent& event) {
  std::lock_guard lock(mutex_);
  if (!open_) return;
  if (steps_.size() >= kMaxSteps) steps_.erase(steps_.begin(), steps_.begin() + kMaxSteps / 2);
  steps_.push_back(event);
}

void Channel::flush() {
  std::lock_guard lock(mutex_);
  if (open_ && (!events_.empty() || !steps_.empty())) wake();
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
  std::vector<StepEvent> steps;
  std::vector<Task> tasks;
  {
    std::lock_guard lock(channel->mutex_);
    channel->woken_ = false;
    if (!channel->open_) return;
    events.swap(channel->events_);
    channel->event_of_.clear();
    steps.swap(channel->steps_);
    tasks.swap(channel->tasks_);
  }
  Napi::HandleScope scope(env);
  // Tokens first: "closed" or "loaded" comes after what led to it.
  if (!(events.empty() && steps.empty()) && !channel->on_events_.IsEmpty()) {
    Napi::Array batch = Napi::Array::New(env, events.size() + steps.size());
    uint32_t at = 0;
    for (const TokenEvent& event : events) batch[at++] = to_js(env, event);
    for (const StepEvent& event : steps) batch[at++] = to_js(env, event);
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
