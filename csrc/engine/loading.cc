#include "engine/loading.h"

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <future>
#include <string_view>

#include "backend/cpu/cpu_backend.h"
#include "core/error.h"
#include "engine/engine.h"

namespace millrace {

namespace {

// More threads do not fill the staging window faster.
constexpr int kMostStageThreads = 8;

double milliseconds_since(Clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

std::vector<std::unique_ptr<Backend>> create_backends(const LoadRequest& request) {
  std::vector<std::unique_ptr<Backend>> backends;
  for (const std::string& device : request.devices) backends.push_back(request.backend(device));
  const auto reads_host = [](const auto& backend) { return backend->reads_host_memory(); };
  if (backends.empty() || (std::any_of(backends.begin(), backends.end(), reads_host) &&
                           !std::all_of(backends.begin(), backends.end(), reads_host))) {
    throw Error(code::kInvalidArgument, "native call: expected devices of one kind",
                "call through the package's own API");
  }
  return backends;
}

// A GPU takes a third of a second to start, in which weights can be read. Not to be had, it ends the reading.
class StartingBackends {
 public:
  StartingBackends(const LoadRequest& request, std::atomic<bool>& cancelled, Clock::time_point began)
      : gpu_(std::find(request.devices.begin(), request.devices.end(), "cpu") == request.devices.end()) {
    if (!gpu_) {
      backends_ = create_backends(request);
      return;
    }
    started_ = std::async(std::launch::async, [this, &request, &cancelled, began] {
      try {
        backends_ = create_backends(request);
        started_ms_ = milliseconds_since(began);
        pinner_.set_value(backends_.front()->pinner());  // for every GPU
      } catch (...) {
        failure_ = std::current_exception();
        pinner_.set_exception(failure_);
        cancelled.store(true, std::memory_order_relaxed);
      }
    });
  }

  // Those of GPUs wait until these have started.
  HostPinners pinners(bool slabs) {
    if (!gpu_) return {};
    const Pinner pinner = [started = started_pinner_](std::byte* data, size_t bytes) {
      return started.get()(data, bytes);
    };
    return {slabs ? pinner : Pinner{}, pinner};
  }

  double started_ms() const { return started_ms_; }  // after take()

  // Throws what kept the device from starting, if anything did.
  void rethrow() {
    if (started_.valid()) started_.get();
    if (failure_) std::rethrow_exception(failure_);
  }

  std::vector<std::unique_ptr<Backend>> take() {
    rethrow();
    return std::move(backends_);
  }

 private:
  const bool gpu_;
  std::vector<std::unique_ptr<Backend>> backends_;  // of the thread until it has ended
  std::exception_ptr failure_;                      // the same
  double started_ms_ = 0;                           // the same
  std::promise<Pinner> pinner_;
  const std::shared_future<Pinner> started_pinner_{pinner_.get_future()};
  std::future<void> started_;  // last: its end waits for the thread
};

// Behind the large model's weights, which take longer and start the device.
std::shared_ptr<DraftModel> load_draft(const LoadRequest& request, const HostModel& large,
                                       std::atomic<bool>& cancelled) {
  const LoadRequest::Draft& draft = *request.draft;
  std::unique_ptr<Backend> backend = request.backend(draft.device);
  DraftModelConfig config = draft.config;
  config.stage_threads = std::clamp(request.threads, 1, kMostStageThreads);
  const bool streams = std::ranges::any_of(config.homes, [](Home home) { return home != Home::resident; });
  for (size_t unit = 0; unit < request.config.homes.size(); unit++) {
    if (request.config.homes[unit] == Home::shared) config.arena_beside += large.units()[unit].bytes;
  }
  HostPinners pinners;
  if (!backend->reads_host_memory()) pinners = {streams ? backend->pinner() : Pinner{}, backend->pinner()};
  RepackOptions options;
  options.cancelled = &cancelled;
  PackedOutcome packed;
  std::shared_ptr<const HostModel> host = draft.weights(request.threads, options, pinners, packed);
  host->pin(pinners);
  return std::make_shared<DraftModel>(std::move(backend), std::move(host), std::move(config));
}

}  // namespace

LoadedModel load_model(const LoadRequest& request, std::atomic<bool>& cancelled,
                       const std::function<void(size_t done, size_t total)>& progress) {
  const Clock::time_point began = Clock::now();
  ModelConfig config = request.config;
  config.stage_threads = std::clamp(request.threads, 1, kMostStageThreads);
  if (const char* ahead = std::getenv("MILLRACE_TEST_STEPS_AHEAD")) {
    config.steps_ahead = std::string_view(ahead) == "0" ? StepsAhead::never : StepsAhead::always;
  }
  const auto at_home = [&](Home home) {
    return std::find(config.homes.begin(), config.homes.end(), home) != config.homes.end();
  };
  const bool streams = at_home(Home::streamed) || at_home(Home::cpu) || at_home(Home::shared) || at_home(Home::demand);
  RepackOptions options;
  options.cancelled = &cancelled;
  options.progress = progress;
  StartingBackends starting(request, cancelled, began);
  LoadedModel loaded;
  std::shared_ptr<const HostModel> host;
  try {
    host = request.weights(request.threads, options, starting.pinners(streams), loaded.packed);
  } catch (...) {
    starting.rethrow();
    throw;
  }
  loaded.weights_ms = milliseconds_since(began);
  std::vector<std::unique_ptr<Backend>> backends = starting.take();
  loaded.device_ms = starting.started_ms();
  const bool gpu = !backends.front()->reads_host_memory();
  // A model that others had loaded, and not for such a device.
  if (gpu) host->pin({streams ? backends.front()->pinner() : Pinner{}, backends.front()->pinner()});
  loaded.host = host;
  loaded.report = host->report();
  std::unique_ptr<Backend> cpu;
  if (gpu && at_home(Home::cpu)) cpu = create_cpu_backend(request.threads);
  if (request.draft) config.draft_model = load_draft(request, *host, cancelled);
  loaded.model = std::make_shared<Model>(Engine::next_id(), std::move(backends), std::move(host), std::move(config),
                                         std::move(cpu));
  if (cancelled.load(std::memory_order_relaxed)) {
    throw Error(code::kAborted, "the load was cancelled", "call load() again if that was not meant");
  }
  loaded.total_ms = milliseconds_since(began);
  return loaded;
}

}  // namespace millrace
