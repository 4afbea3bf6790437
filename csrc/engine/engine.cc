#include "engine/engine.h"

#include <algorithm>
#include <atomic>

#include "core/error.h"
#include "core/reclaimer.h"

namespace millrace {

namespace {

// What goes wrong in a command is its caller's, never the worker's.
template <typename Body>
void settle(Body&& body, const std::function<void(const Error&)>& failed) {
  try {
    body();
  } catch (...) {
    failed(current_error());
  }
}

}  // namespace

Engine& Engine::process() {
  static Engine* engine = new Engine;
  return *engine;
}

uint64_t Engine::next_id() {
  static std::atomic<uint64_t> last{0};
  return last.fetch_add(1, std::memory_order_relaxed) + 1;
}

DeviceWorker& Engine::worker_of(const Model& model) {
  std::lock_guard lock(mutex_);
  std::unique_ptr<DeviceWorker>& worker = workers_[model.devices().front().name];
  if (!worker) worker = std::make_unique<DeviceWorker>();
  return *worker;
}

void Engine::add(std::shared_ptr<Model> model) {
  DeviceWorker& worker = worker_of(*model);
  worker.post([&worker, model = std::move(model)]() mutable { worker.add(std::move(model)); });
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
  DeviceWorker& worker = worker_of(*model);
  worker.post([&worker, model, sequence] { worker.enqueue(*model, std::make_unique<Sequence>(std::move(*sequence))); });
  return id;
}

void Engine::cancel(const std::shared_ptr<Model>& model, uint64_t request) {
  DeviceWorker& worker = worker_of(*model);
  worker.post([&worker, model, request] { worker.cancel(*model, request); });
}

void Engine::observe(const std::shared_ptr<Model>& model, std::shared_ptr<EventSink> sink) {
  DeviceWorker& worker = worker_of(*model);
  worker.post([&worker, model, sink = std::move(sink)] {
    if (worker.serves(*model)) model->observe(sink);
  });
}

void Engine::close(std::shared_ptr<Model> model, bool drain, std::chrono::milliseconds timeout,
                   std::function<void()> done) {
  const Clock::time_point deadline = drain ? Clock::now() + timeout : Clock::now();
  DeviceWorker& worker = worker_of(*model);
  worker.post(
      [&worker, model = std::move(model), deadline, done = std::move(done)] { worker.close(*model, deadline, done); });
}

void Engine::set_homes(const std::shared_ptr<Model>& model, std::vector<Home> homes, std::vector<size_t> ring_bytes,
                       std::function<void(std::vector<Home>)> done, std::function<void(const Error&)> failed) {
  DeviceWorker& worker = worker_of(*model);
  worker.post([&worker, model, homes = std::move(homes), ring_bytes = std::move(ring_bytes), done = std::move(done),
               failed = std::move(failed)] {
    settle(
        [&] {
          worker.bring_to_rest(*model);
          // What was given up is the device's own again by the time that it is told.
          Reclaimer::process().post([done, found = model->set_homes(homes, ring_bytes)] { done(found); });
        },
        failed);
  });
}

void Engine::set_arena_limit(const std::shared_ptr<Model>& model, size_t bytes, std::function<void()> done,
                             std::function<void(const Error&)> failed) {
  DeviceWorker& worker = worker_of(*model);
  worker.post([&worker, model, bytes, done = std::move(done), failed = std::move(failed)] {
    settle(
        [&] {
          worker.bring_to_rest(*model);
          if (model->shares()) model->set_arena_limit(bytes);
          Reclaimer::process().post(done);
        },
        failed);
  });
}

void Engine::set_expert_cache(const std::shared_ptr<Model>& model, size_t bytes, std::function<void(size_t)> done,
                              std::function<void(const Error&)> failed) {
  DeviceWorker& worker = worker_of(*model);
  worker.post([&worker, model, bytes, done = std::move(done), failed = std::move(failed)] {
    settle(
        [&] {
          worker.bring_to_rest(*model);
          const size_t found = model->set_expert_cache(bytes);
          Reclaimer::process().post([done, found] { done(found); });
        },
        failed);
  });
}

namespace {

void change_at_rest(DeviceWorker& worker, const std::shared_ptr<Model>& model, std::function<void(Model&)> change,
                    std::function<void()> done, std::function<void(const Error&)> failed) {
  worker.post([&worker, model, change = std::move(change), done = std::move(done), failed = std::move(failed)] {
    settle(
        [&] {
          worker.bring_to_rest(*model);
          change(*model);
          done();
        },
        failed);
  });
}

}  // namespace

void Engine::trace(const std::shared_ptr<Model>& model, std::string path, std::function<void()> done,
                   std::function<void(const Error&)> failed) {
  const auto change = [path = std::move(path)](Model& traced) { traced.trace(path); };
  change_at_rest(worker_of(*model), model, change, std::move(done), std::move(failed));
}

void Engine::trace_routes(const std::shared_ptr<Model>& model, std::string path, std::function<void()> done,
                          std::function<void(const Error&)> failed) {
  const auto change = [path = std::move(path)](Model& traced) { traced.trace_routes(path); };
  change_at_rest(worker_of(*model), model, change, std::move(done), std::move(failed));
}

void Engine::detach(std::shared_ptr<EventSink> sink) {
  std::lock_guard lock(mutex_);
  for (const auto& [device, worker] : workers_) {
    worker->post([&worker = *worker, sink] { worker.detach(sink); });
  }
}

}  // namespace millrace
