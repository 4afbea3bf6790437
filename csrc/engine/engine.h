#pragma once
// The process's one engine thread: owns every model's streams and steps, takes commands from any thread, and serves
// the models in turn, one step each. Nothing here blocks a caller.
#include <condition_variable>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "core/error.h"
#include "engine/model.h"
#include "engine/request.h"

namespace millrace {

class Engine {
 public:
  Engine();
  ~Engine();  // aborts what runs
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // The process's own: never destroyed, since its thread may be inside a step when the process exits.
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
  // changed. Of this and of what follows `done` and `failed` are called on the engine's thread or the reclaiming one.
  void set_homes(const std::shared_ptr<Model>& model, std::vector<Home> homes, std::vector<size_t> ring_bytes,
                 std::function<void(std::vector<Home>)> done, std::function<void(const Error&)> failed);
  // Bytes of device memory that the shared units of all models of this one's device may take.
  void set_arena_limit(const std::shared_ptr<Model>& model, size_t bytes, std::function<void()> done,
                       std::function<void(const Error&)> failed);
  // Writes a trace of the model's passes to a file, or no more if `path` is empty.
  void trace(const std::shared_ptr<Model>& model, std::string path, std::function<void()> done,
             std::function<void(const Error&)> failed);
  // Aborts all requests of a sink that is about to go.
  void detach(std::shared_ptr<EventSink> sink);

 private:
  struct Served {
    std::shared_ptr<Model> model;
    bool closing = false;
    Clock::time_point deadline;
    std::vector<std::function<void()>> on_closed;
    Clock::time_point turn_began{};  // the last time that it was given the arena
  };

  void post(std::function<void()> command);
  void run();
  void step(Served& served);
  // Models that share an arena which cannot hold them all take turns: one that is away waits until the one whose turn
  // it is has no more work, or has had its time.
  void give_turns();
  bool may_step(Served& served) const;
  Served* find(const Model* model);
  void require_open(const Model& model);
  void flush_sinks();
  void finish_closing();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::function<void()>> commands_;
  bool stop_ = false;
  std::list<Served> models_;  // engine thread only
  std::map<const Arena*, const Model*> turns_;
  std::vector<std::weak_ptr<EventSink>> sinks_;
  std::thread thread_;
};

}  // namespace millrace
