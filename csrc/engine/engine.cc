#include "engine/engine.h"

#include <algorithm>
#include <atomic>

#include "core/error.h"
#include "core/reclaimer.h"

namespace millrace {

namespace {

bool any(const Sequence&, bool) {
  return true;
}

// What goes wrong in a command is its caller's, never the engine's.
template <typename Body>
void settle(Body&& body, const std::function<void(const Error&)>& failed) {
  try {
    body();
  } catch (...) {
    failed(current_error());
  }
}

}  // namespace

Engine::Engine() : thread_([this] { run(); }) {}

Engine::~Engine() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

Engine& Engine::process() {
  static Engine* engine = new Engine;
  return *engine;
}

uint64_t Engine::next_id() {
  static std::atomic<uint64_t> last{0};
  return last.fetch_add(1, std::memory_order_relaxed) + 1;
}

void Engine::post(std::function<void()> command) {
  {
    std::lock_guard lock(mutex_);
    commands_.push_back(std::move(command));
  }
  wake_.notify_all();
}

void Engine::add(std::shared_ptr<Model> model) {
  post([this, model = std::move(model)]() mutable {
    Served served;
    served.model = std::move(model);
    if (served.model->shares()) {
      const size_t wanted = served.model->config().arena_bytes;
      const bool first = served.model->arena()->limit() == 0;
      // A device that is lost tells so at the first request.
      settle(
          [&] {
            if (wanted > 0) served.model->set_arena_limit(wanted);
            if (wanted == 0 && first) served.model->set_arena_limit(served.model->shared_unit_bytes());
          },
          [](const Error&) {});
    }
    models_.push_back(std::move(served));
  });
}

uint64_t Engine::admit(const std::shared_ptr<Model>& model) {
  model->enter_queue();
  return next_id();
}

void Engine::withdraw(const std::shared_ptr<Model>& model) {
  model->leave_queue();
}

uint64_t Engine::submit(const std::shared_ptr<Model>& model, RequestOptions options, std::shared_ptr<EventSink> sink) {
  const int context = model->config().context_length;
  const int prompt = static_cast<int>(std::min<size_t>(options.tokens.size(), INT32_MAX));
  const int room = context - prompt;
  if (prompt == 0) {
    throw Error(code::kInvalidArgument, "a request needs at least one token", "give a prompt that is not empty");
  }
  if (room < (options.kind == RequestKind::generate ? 1 : 0)) {
    throw Error(code::kContextOverflow,
                format("%d tokens do not fit the context of %d%s", prompt, context,
                       options.kind == RequestKind::generate ? " with room for one more" : ""),
                "shorten the text or load the model with a larger contextLength");
  }
  options.max_tokens = std::clamp(options.max_tokens, 1, std::max(room, 1));

  auto sequence = std::make_shared<Sequence>();
  sequence->id = options.id != 0 ? options.id : admit(model);
  sequence->tokens = options.tokens;
  sequence->options = std::move(options);
  if (sequence->options.constraint) {
    sequence->constrained = std::make_unique<Constrained>(sequence->options.constraint, sequence->options.stop_tokens);
  }
  sequence->sink = std::move(sink);
  sequence->submitted = Clock::now() - std::chrono::duration_cast<Clock::duration>(
                                           std::chrono::duration<double, std::milli>(sequence->options.age_ms));
  const uint64_t id = sequence->id;
  post([this, model, sequence] {
    auto owned = std::make_unique<Sequence>(std::move(*sequence));
    const std::shared_ptr<EventSink> sink = owned->sink;
    if (std::none_of(sinks_.begin(), sinks_.end(), [&](const auto& known) { return known.lock() == sink; })) {
      sinks_.push_back(sink);
    }
    Served* served = find(model.get());
    if (served == nullptr || served->closing) {
      TokenEvent event;
      event.model = model->id();
      event.request = owned->id;
      event.finish = Finish::error;
      event.error_code = code::kModelClosed;
      event.error_message = "the model is closed";
      event.error_remedy = "load the model again";
      model->leave_queue();
      sink->post(std::move(event));
      return;
    }
    served->model->enqueue(std::move(owned));
  });
  return id;
}

void Engine::cancel(const std::shared_ptr<Model>& model, uint64_t request) {
  post([this, model, request] {
    if (Served* served = find(model.get())) {
      served->model->end(request, Finish::abort);
      served->model->publish_counters();
    }
  });
}

void Engine::observe(const std::shared_ptr<Model>& model, std::shared_ptr<EventSink> sink) {
  post([this, model, sink = std::move(sink)] {
    if (Served* served = find(model.get())) served->model->observe(sink);
  });
}

void Engine::close(std::shared_ptr<Model> model, bool drain, std::chrono::milliseconds timeout,
                   std::function<void()> done) {
  const Clock::time_point deadline = drain ? Clock::now() + timeout : Clock::now();
  post([this, model = std::move(model), deadline, done = std::move(done)] {
    Served* served = find(model.get());
    if (served == nullptr) {
      done();
      return;
    }
    // A second close may hurry the first, never delay it.
    served->deadline = served->closing ? std::min(served->deadline, deadline) : deadline;
    served->closing = true;
    served->on_closed.push_back(done);
  });
}

void Engine::set_homes(const std::shared_ptr<Model>& model, std::vector<Home> homes, std::vector<size_t> ring_bytes,
                       std::function<void(std::vector<Home>)> done, std::function<void(const Error&)> failed) {
  post([this, model, homes = std::move(homes), ring_bytes = std::move(ring_bytes), done = std::move(done),
        failed = std::move(failed)] {
    settle(
        [&] {
          require_open(*model);
          // What was given up is the device's own again by the time that it is told.
          Reclaimer::process().post([done, found = model->set_homes(homes, ring_bytes)] { done(found); });
        },
        failed);
  });
}

void Engine::set_arena_limit(const std::shared_ptr<Model>& model, size_t bytes, std::function<void()> done,
                             std::function<void(const Error&)> failed) {
  post([this, model, bytes, done = std::move(done), failed = std::move(failed)] {
    settle(
        [&] {
          require_open(*model);
          if (model->shares()) model->set_arena_limit(bytes);
          Reclaimer::process().post(done);
        },
        failed);
  });
}

void Engine::trace(const std::shared_ptr<Model>& model, std::string path, std::function<void()> done,
                   std::function<void(const Error&)> failed) {
  post([this, model, path = std::move(path), done = std::move(done), failed = std::move(failed)] {
    settle(
        [&] {
          require_open(*model);
          model->trace(path);
          done();
        },
        failed);
  });
}

void Engine::detach(std::shared_ptr<EventSink> sink) {
  post([this, sink = std::move(sink)] {
    for (Served& served : models_) {
      for (const uint64_t id :
           served.model->scheduler().ids([&](const Sequence& sequence, bool) { return sequence.sink == sink; }))
        served.model->end(id, Finish::abort);
      served.model->publish_counters();
    }
    std::erase_if(sinks_, [&](const auto& known) { return known.lock() == sink; });
  });
}

void Engine::require_open(const Model& model) {
  if (find(&model) == nullptr) throw Error(code::kModelClosed, "the model is closed", "load the model again");
}

Engine::Served* Engine::find(const Model* model) {
  for (Served& served : models_) {
    if (served.model.get() == model) return &served;
  }
  return nullptr;
}

void Engine::flush_sinks() {
  std::erase_if(sinks_, [](const std::weak_ptr<EventSink>& known) {
    const std::shared_ptr<EventSink> sink = known.lock();
    if (sink) sink->flush();
    return !sink;
  });
}

void Engine::finish_closing() {
  for (auto it = models_.begin(); it != models_.end();) {
    Served& served = *it;
    if (!served.closing) {
      ++it;
      continue;
    }
    if (Clock::now() >= served.deadline) {
      for (const uint64_t id : served.model->scheduler().ids(any)) served.model->end(id, Finish::abort);
    }
    if (!served.model->scheduler().idle()) {
      ++it;
      continue;
    }
    flush_sinks();  // the last tokens come before the news that the model is closed
    served.model->leave();
    std::erase_if(turns_, [&](const auto& turn) { return turn.second == served.model.get(); });
    Reclaimer::process().post([model = std::move(served.model), callbacks = std::move(served.on_closed)]() mutable {
      model->release();
      model.reset();
      for (const auto& done : callbacks) done();
    });
    it = models_.erase(it);
  }
}

void Engine::step(Served& served) {
  TokenEvent failure;
  try {
    const uint64_t switches = served.model->counters().switches.load(std::memory_order_relaxed);
    served.model->step();
    if (served.model->counters().switches.load(std::memory_order_relaxed) == switches) return;
    for (Served& other : models_) {  // whose units may have given way
      if (other.model->shares()) other.model->publish_counters();
    }
    return;
  } catch (...) {
    const Error error = current_error();
    failure.error_code = error.code();
    failure.error_message = error.what();
    failure.error_remedy = error.remedy();
  }
  // The pass is lost and with it what it was for; those that wait, the other models and the process live on.
  served.model->abandon_pass();
  const Scheduler& scheduler = served.model->scheduler();
  const bool lost = failure.error_code == code::kGpuLost;
  for (const uint64_t id : lost ? scheduler.ids(any) : scheduler.running_ids()) {
    served.model->end(id, Finish::error, failure);
  }
  served.model->publish_counters();
}

void Engine::give_turns() {
  const Clock::time_point now = Clock::now();
  std::map<const Arena*, Served*> next;  // of those that are away and have work, the one whose last turn is longest ago
  for (Served& served : models_) {
    Model& model = *served.model;
    if (!model.shares() || model.scheduler().idle() || !model.away()) continue;
    Served*& chosen = next[model.arena()];
    if (chosen == nullptr || served.turn_began < chosen->turn_began) chosen = &served;
  }
  for (const auto& [arena, served] : next) {
    const Model*& turn = turns_[arena];
    const auto current = std::find_if(models_.begin(), models_.end(),
                                      [turn = turn](const Served& other) { return other.model.get() == turn; });
    if (current != models_.end() && &*current != served && !current->model->scheduler().idle() &&
        now - current->turn_began < std::chrono::milliseconds(current->model->config().turn_ms)) {
      continue;
    }
    turn = served->model.get();
    served->turn_began = now;
  }
}

bool Engine::may_step(Served& served) const {
  Model& model = *served.model;
  if (!model.shares() || model.scheduler().idle() || !model.away()) return true;
  const auto turn = turns_.find(model.arena());
  return turn != turns_.end() && turn->second == &model;
}

void Engine::run() {
  for (;;) {
    std::vector<std::function<void()>> commands;
    {
      std::unique_lock lock(mutex_);
      const bool idle = std::all_of(models_.begin(), models_.end(),
                                    [](Served& served) { return served.model->scheduler().idle() && !served.closing; });
      if (idle) wake_.wait(lock, [this] { return stop_ || !commands_.empty(); });
      if (stop_) break;
      commands.swap(commands_);
    }
    for (const auto& command : commands) command();
    commands.clear();  // and with them the last references to what was closed
    finish_closing();
    give_turns();
    for (Served& served : models_) {
      if (may_step(served)) {
        step(served);
      } else {
        served.model->expire();
      }
    }
    flush_sinks();
  }
  for (Served& served : models_) {
    for (const uint64_t id : served.model->scheduler().ids(any)) served.model->end(id, Finish::abort);
    for (const auto& done : served.on_closed) done();
  }
  flush_sinks();
  models_.clear();
}

}  // namespace millrace
