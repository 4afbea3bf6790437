#include "engine/device_worker.h"

#include <algorithm>

#include "core/error.h"
#include "core/reclaimer.h"

namespace millrace {

namespace {

bool any(const Sequence&, bool) {
  return true;
}

}  // namespace

DeviceWorker::DeviceWorker() : thread_([this] { run(); }) {}

DeviceWorker::~DeviceWorker() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

void DeviceWorker::post(std::function<void()> command) {
  {
    std::lock_guard lock(mutex_);
    commands_.push_back(std::move(command));
  }
  wake_.notify_all();
}

void DeviceWorker::add(std::shared_ptr<Model> model) {
  if (model->shares()) {
    const size_t wanted = model->config().arena_bytes;
    const bool first = model->arena()->limit() == 0;
    try {
      if (wanted > 0) model->set_arena_limit(wanted);
      if (wanted == 0 && first) model->set_arena_limit(model->shared_unit_bytes());
    } catch (const std::exception&) {
      // A device that is lost tells so at the first request.
    }
  }
  Served served;
  served.model = std::move(model);
  models_.push_back(std::move(served));
}

void DeviceWorker::enqueue(Model& model, std::unique_ptr<Sequence> sequence) {
  const std::shared_ptr<EventSink> sink = sequence->sink;
  if (std::none_of(sinks_.begin(), sinks_.end(), [&](const auto& known) { return known.lock() == sink; })) {
    sinks_.push_back(sink);
  }
  Served* served = find(model);
  if (served != nullptr && !served->closing) {
    model.enqueue(std::move(sequence));
    return;
  }
  TokenEvent event;
  event.model = model.id();
  event.request = sequence->id;
  event.finish = Finish::error;
  event.error_code = code::kModelClosed;
  event.error_message = "the model is closed";
  event.error_remedy = "load the model again";
  model.leave_queue();
  sink->post(std::move(event));
}

void DeviceWorker::cancel(const Model& model, uint64_t request) {
  if (Served* served = find(model)) {
    served->model->end(request, Finish::abort);
    served->model->publish_counters();
  }
}

void DeviceWorker::close(const Model& model, Clock::time_point deadline, std::function<void()> done) {
  Served* served = find(model);
  if (served == nullptr) {
    done();
    return;
  }
  // A second close may hurry the first, never delay it.
  served->deadline = served->closing ? std::min(served->deadline, deadline) : deadline;
  served->closing = true;
  served->on_closed.push_back(std::move(done));
}

void DeviceWorker::detach(const std::shared_ptr<EventSink>& sink) {
  for (Served& served : models_) {
    for (const uint64_t id :
         served.model->scheduler().ids([&](const Sequence& sequence, bool) { return sequence.sink == sink; })) {
      served.model->end(id, Finish::abort);
    }
    served.model->publish_counters();
  }
  std::erase_if(sinks_, [&](const auto& known) { return known.lock() == sink; });
}

void DeviceWorker::bring_to_rest(const Model& model) {
  Served* served = find(model);
  if (served == nullptr) throw Error(code::kModelClosed, "the model is closed", "load the model again");
  attempt(*served, [&] { served->model->catch_up(); });
}

DeviceWorker::Served* DeviceWorker::find(const Model& model) {
  for (Served& served : models_) {
    if (served.model.get() == &model) return &served;
  }
  return nullptr;
}

void DeviceWorker::flush_sinks() {
  std::erase_if(sinks_, [](const std::weak_ptr<EventSink>& known) {
    const std::shared_ptr<EventSink> sink = known.lock();
    if (sink) sink->flush();
    return !sink;
  });
}

void DeviceWorker::finish_closing() {
  for (auto it = models_.begin(); it != models_.end();) {
    Served& served = *it;
    if (!served.closing) {
      ++it;
      continue;
    }
    if (Clock::now() >= served.deadline) {
      for (const uint64_t id : served.model->scheduler().ids(any)) served.model->end(id, Finish::abort);
    }
    if (!served.model->idle()) {
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

template <typename Body>
void DeviceWorker::attempt(Served& served, Body&& body) {
  TokenEvent failure;
  try {
    body();
    return;
  } catch (...) {
    const Error error = current_error();
    failure.error_code = error.code();
    failure.error_message = error.what();
    failure.error_remedy = error.remedy();
  }
  // What is under way is lost and with it what it was for; those that wait, the other models and the process live on.
  served.model->abandon_passes();
  const Scheduler& scheduler = served.model->scheduler();
  const bool lost = failure.error_code == code::kGpuLost;
  for (const uint64_t id : lost ? scheduler.ids(any) : scheduler.running_ids()) {
    served.model->end(id, Finish::error, failure);
  }
  served.model->publish_counters();
}

void DeviceWorker::step(Served& served) {
  const uint64_t switches = served.model->counters().switches.load(std::memory_order_relaxed);
  attempt(served, [&] { served.model->step(); });
  if (served.model->counters().switches.load(std::memory_order_relaxed) == switches) return;
  for (Served& other : models_) {  // whose units may have given way
    if (other.model->shares()) other.model->publish_counters();
  }
}

void DeviceWorker::give_turns() {
  const Clock::time_point now = Clock::now();
  std::map<const Arena*, Served*> next;  // of those that are away and have work, the one whose last turn is longest ago
  for (Served& served : models_) {
    Model& model = *served.model;
    if (!model.shares() || model.scheduler().idle() || !(model.away() || model.draft_model_away())) continue;
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

bool DeviceWorker::may_step(Served& served) const {
  Model& model = *served.model;
  if (!model.shares() || model.scheduler().idle()) return true;
  const auto turn = turns_.find(model.arena());
  const bool own = turn != turns_.end() && turn->second == &model;
  model.scheduler().let_draft_model(own || !model.draft_model_away());
  return own || !model.away();
}

void DeviceWorker::run() {
  for (;;) {
    std::vector<std::function<void()>> commands;
    {
      std::unique_lock lock(mutex_);
      const bool idle = std::all_of(models_.begin(), models_.end(),
                                    [](Served& served) { return served.model->idle() && !served.closing; });
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
