#pragma once
// The thread that serves the models of one device: takes commands between steps, gives each model a step in turn and
// hands its tokens to their sinks. Models of different devices have different workers, so that they step at the same
// time; a model on several devices belongs to the worker of its first one. What workers share has locks of its own: the
// host store, the reclaimer, the pool of masks, sinks. The arena of a device belongs to its worker alone, since only
// models on one device have shared units.
#include <condition_variable>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "engine/model.h"
#include "engine/request.h"

namespace millrace {

class DeviceWorker {
 public:
  DeviceWorker();
  ~DeviceWorker();  // aborts what runs
  DeviceWorker(const DeviceWorker&) = delete;
  DeviceWorker& operator=(const DeviceWorker&) = delete;

  // Runs a command on the worker's thread, between steps, in the order of posting. It must not throw. Any thread.
  void post(std::function<void()> command);

  // ---- Of commands, on the worker's thread.
  void add(std::shared_ptr<Model> model);
  // A model that is closed ends the request with MODEL_CLOSED.
  void enqueue(Model& model, std::unique_ptr<Sequence> sequence);
  void cancel(const Model& model, uint64_t request);
  // After the running requests have ended, or at the deadline, the reclaiming thread frees the model and calls `done`.
  void close(const Model& model, Clock::time_point deadline, std::function<void()> done);
  // Aborts all requests of a sink.
  void detach(const std::shared_ptr<EventSink>& sink);
  // It was added and is not closed.
  bool serves(const Model& model) { return find(model) != nullptr; }
  // Before its weights or what watches it change: all that is under way has been read. Throws MODEL_CLOSED.
  void bring_to_rest(const Model& model);

 private:
  struct Served {
    std::shared_ptr<Model> model;
    bool closing = false;
    Clock::time_point deadline;
    std::vector<std::function<void()>> on_closed;
    Clock::time_point turn_began{};  // the last time that it was given the arena
  };

  void run();
  void step(Served& served);
  // What a step throws ends the requests that it was for.
  template <typename Body>
  void attempt(Served& served, Body&& body);
  // Models that share an arena which cannot hold them all take turns: one that is away waits until the one whose turn
  // it is has no more work, or has had its time.
  void give_turns();
  bool may_step(Served& served) const;
  Served* find(const Model& model);
  void flush_sinks();
  void finish_closing();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::function<void()>> commands_;  // under mutex_
  bool stop_ = false;                            // under mutex_
  // The thread's own from here on.
  std::list<Served> models_;
  std::map<const Arena*, const Model*> turns_;
  std::vector<std::weak_ptr<EventSink>> sinks_;
  std::thread thread_;
};

}  // namespace millrace
