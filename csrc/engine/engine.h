#pragma once
// What other threads ask of models: each call is checked and posted to the worker of the model's device
// (device_worker.h). Nothing here blocks a caller. An engine's end aborts what runs.
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/error.h"
#include "engine/device_worker.h"
#include "engine/model.h"
#include "engine/request.h"

namespace millrace {

class Engine {
 public:
  Engine() = default;
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // The process's own: never destroyed, since its workers may be inside a step when the process exits.
  static Engine& process();

  // Ids are unique in the process, and larger for what came later.
  static uint64_t next_id();

  void add(std::shared_ptr<Model> model);
  // A place in the model's queue for a request that is submitted, or withdrawn, later: returns its id. Throws
  // QUEUE_FULL.
  static uint64_t admit(const std::shared_ptr<Model>& model);
  static void withdraw(const std::shared_ptr<Model>& model);
  // Returns the request's id. Throws QUEUE_FULL if it was not admitted before, CONTEXT_OVERFLOW or INVALID_ARGUMENT; a
  // model already closed ends the request with MODEL_CLOSED through its sink.
  uint64_t submit(const std::shared_ptr<Model>& model, RequestOptions options, std::shared_ptr<EventSink> sink);
  void cancel(const std::shared_ptr<Model>& model, uint64_t request);
  // Tells `sink` of every step of the model from now on; null: nobody.
  void observe(const std::shared_ptr<Model>& model, std::shared_ptr<EventSink> sink);
  // Takes no more requests; after the running ones have ended (`drain`, for `timeout` at most) or were aborted, the
  // reclaiming thread frees the model and calls `done`.
  void close(std::shared_ptr<Model> model, bool drain, std::chrono::milliseconds timeout, std::function<void()> done);
  // Moves units between steps, as Model::set_homes has it; `done` hears what homes it came to, `failed` why nothing has
  // changed. Of this and of what follows `done` and `failed` are called on a worker's thread or the reclaiming one.
  void set_homes(const std::shared_ptr<Model>& model, std::vector<Home> homes, std::vector<size_t> ring_bytes,
                 std::function<void(std::vector<Home>)> done, std::function<void(const Error&)> failed);
  // Bytes of device memory that the shared units of all models of this one's device may take.
  void set_arena_limit(const std::shared_ptr<Model>& model, size_t bytes, std::function<void()> done,
                       std::function<void(const Error&)> failed);
  // What rows choose of mixtures to a file; empty: no more.
  void trace_routes(const std::shared_ptr<Model>& model, std::string path, std::function<void()> done,
                    std::function<void(const Error&)> failed);
  // Device memory for experts on demand; `done` hears what it came to.
  void set_expert_cache(const std::shared_ptr<Model>& model, size_t bytes, std::function<void(size_t)> done,
                        std::function<void(const Error&)> failed);
  // Writes a trace of the model's passes to a file, or no more if `path` is empty.
  void trace(const std::shared_ptr<Model>& model, std::string path, std::function<void()> done,
             std::function<void(const Error&)> failed);
  // Aborts all requests of a sink that is about to go.
  void detach(std::shared_ptr<EventSink> sink);

 private:
  DeviceWorker& worker_of(const Model& model);

  std::mutex mutex_;
  std::map<std::string, std::unique_ptr<DeviceWorker>> workers_;  // by the first device; they stay
};

}  // namespace millrace
