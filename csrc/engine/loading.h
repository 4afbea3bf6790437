#pragma once
// Puts a model together on the loader's own thread: its devices start while its weights are read.
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/repack.h"
#include "engine/model.h"
#include "stream/host_store.h"
#include "stream/packed_file.h"

namespace millrace {

struct LoadRequest {
  // Where weights come from: the host store, or a generator.
  using Weights = std::function<std::shared_ptr<const HostModel>(int threads, const RepackOptions& options,
                                                                 const HostPinners& pinners, PackedOutcome& packed)>;
  Weights weights;
  // A device by its name. Throws what keeps it from starting.
  std::function<std::unique_ptr<Backend>(const std::string& device)> backend;
  std::vector<std::string> devices;  // of one kind
  int threads = 1;
  ModelConfig config;
  struct Draft {
    Weights weights;
    std::string device;
    DraftModelConfig config;
  };
  std::optional<Draft> draft;  // a model that drafts for this one
};

struct LoadedModel {
  std::shared_ptr<Model> model;
  RepackReport report;
  std::weak_ptr<const HostModel> host;  // the model's own, which goes with it
  PackedOutcome packed;
  // When, from the load's beginning, the device had started, the weights were in memory, the model was in its place.
  double device_ms = 0, weights_ms = 0, total_ms = 0;
};

// Throws ABORTED once `cancelled` is set, which a device that cannot start does too: then what kept it. `progress` is
// called on this thread.
LoadedModel load_model(const LoadRequest& request, std::atomic<bool>& cancelled,
                       const std::function<void(size_t done, size_t total)>& progress);

}  // namespace millrace
