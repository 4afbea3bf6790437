#include "addon/model.h"

#include <array>
#include <chrono>
#include <cstdlib>
#include <optional>
#include <tuple>
#include <utility>

#include "addon/convert.h"
#include "addon/environment.h"
#include "addon/lab.h"
#include "addon/probe.h"
#include "addon/program.h"
#include "backend/cpu/cpu_backend.h"
#include "cuda/cuda_backend.h"
#include "engine/engine.h"
#include "engine/loading.h"
#include "stream/host_store.h"
#include "stream/packed_file.h"
#include "stream/synthetic.h"

namespace millrace {

namespace {

using SharedModel = std::shared_ptr<Model>;

Napi::Number number(Napi::Env env, uint64_t value) {
  return Napi::Number::New(env, static_cast<double>(value));
}

std::string text(const Napi::Value& value, const char* name) {
  if (value.IsString()) return value.As<Napi::String>().Utf8Value();
  throw Error(code::kInvalidArgument, format("native call: expected a text for %s", name),
              "call through the package's own API");
}

// One environment's handle on a model. The model's memory is freed when the engine closes it, not by this handle.
class ModelHandle : public Napi::ObjectWrap<ModelHandle> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(
        env, "NativeModel",
        {InstanceAccessor<&ModelHandle::id>("id"), InstanceAccessor<&ModelHandle::head_error>("headError"),
         InstanceAccessor<&ModelHandle::weight_error>("weightError"), InstanceAccessor<&ModelHandle::packed>("packed"),
         InstanceAccessor<&ModelHandle::timings>("timings"), InstanceMethod<&ModelHandle::write_packed>("writePacked"),
         InstanceMethod<&ModelHandle::admit>("admit"), InstanceMethod<&ModelHandle::withdraw>("withdraw"),
         InstanceMethod<&ModelHandle::submit>("submit"), InstanceMethod<&ModelHandle::cancel>("cancel"),
         InstanceMethod<&ModelHandle::stats>("stats"), InstanceMethod<&ModelHandle::observe_steps>("observeSteps"),
         InstanceMethod<&ModelHandle::memory>("memory"), InstanceMethod<&ModelHandle::set_homes>("setHomes"),
         InstanceMethod<&ModelHandle::set_arena>("setArena"),
         InstanceMethod<&ModelHandle::set_expert_cache>("setExpertCache"), InstanceMethod<&ModelHandle::trace>("trace"),
         InstanceMethod<&ModelHandle::trace_routes>("traceRoutes"), InstanceMethod<&ModelHandle::close>("close")});
  }

  // Constructed by load() alone, which passes an External of what it has loaded and the vocabulary's size.
  explicit ModelHandle(const Napi::CallbackInfo& info) : Napi::ObjectWrap<ModelHandle>(info) {
    if (info.Length() != 2 || !info[0].IsExternal()) throw Napi::TypeError::New(info.Env(), "use load()");
    const LoadedModel& loaded = *info[0].As<Napi::External<LoadedModel>>().Data();
    model_ = loaded.model;
    report_ = loaded.report;
    host_ = loaded.host;
    packed_ = loaded.packed;
    timings_ = {loaded.device_ms, loaded.weights_ms, loaded.total_ms};
    vocab_ = info[1].As<Napi::Number>().Int32Value();
  }

  // A model that was forgotten but not closed: what runs may end, then its memory goes.
  ~ModelHandle() override {
    Engine::process().close(model_, true, std::chrono::hours(24), [] {});
  }

 private:
  Napi::Value id(const Napi::CallbackInfo& info) { return number(info.Env(), model_->id()); }

  Napi::Value head_error(const Napi::CallbackInfo& info) { return made(info.Env(), report_.head, "logits"); }
  Napi::Value weight_error(const Napi::CallbackInfo& info) { return made(info.Env(), report_.layers, "results"); }

  static Napi::Value made(Napi::Env env, const QuantisationError& error, const char* results) {
    if (!error.made) return env.Undefined();
    Napi::Object out = Napi::Object::New(env);
    out["weights"] = Napi::Number::New(env, error.weights);
    out[results] = Napi::Number::New(env, error.results);
    return out;
  }

  Napi::Value admit(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] { return number(info.Env(), Engine::admit(model_)); });
  }

  void withdraw(const Napi::CallbackInfo&) { Engine::withdraw(model_); }

  // submit(id, request), id as admit() gave it
  Napi::Value submit(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      RequestOptions options = request_options(info[1].As<Napi::Object>(), vocab_);
      options.id = static_cast<uint64_t>(info[0].As<Napi::Number>().Int64Value());
      const std::shared_ptr<Channel>& channel = Environment::of(info.Env()).channel();
      return number(info.Env(), Engine::process().submit(model_, std::move(options), channel));
    });
  }

  void cancel(const Napi::CallbackInfo& info) {
    Engine::process().cancel(model_, static_cast<uint64_t>(info[0].As<Napi::Number>().Int64Value()));
  }

  void observe_steps(const Napi::CallbackInfo& info) {
    const bool on = info[0].As<Napi::Boolean>().Value();
    Engine::process().observe(model_, on ? Environment::of(info.Env()).channel() : nullptr);
  }

  Napi::Value stats(const Napi::CallbackInfo& info) {
    const ModelCounters& c = model_->counters();
    Napi::Object out = Napi::Object::New(info.Env());
    const auto put = [&](const char* name, const std::atomic<uint64_t>& value) {
      out[name] = number(info.Env(), value.load(std::memory_order_relaxed));
    };
    put("steps", c.steps);
    put("decodeRows", c.decode_rows);
    put("prefillRows", c.prefill_rows);
    put("copiedBytes", c.copied_bytes);
    put("prefetchedBytes", c.prefetched_bytes);
    put("droppedBytes", c.dropped_bytes);
    put("stagedBytes", c.staged_bytes);
    put("fileBytes", c.file_bytes);
    put("pinnedBytes", c.pinned_bytes);
    put("hops", c.hops);
    put("arenaCopiedBytes", c.arena_copied_bytes);
    put("switches", c.switches);
    put("streamedUnits", c.streamed_units);
    put("weightBytesRead", c.weight_bytes_read);
    put("runningSequences", c.running);
    out["waitingSequences"] = Napi::Number::New(info.Env(), model_->waiting());
    put("kvBlocksUsed", c.kv_blocks_used);
    put("promptTokens", c.prompt_tokens);
    put("reusedTokens", c.reused_tokens);
    put("returnedTokens", c.returned_tokens);
    put("preemptions", c.preemptions);
    put("recomputations", c.recomputations);
    put("draftedTokens", c.drafted_tokens);
    put("acceptedTokens", c.accepted_tokens);
    put("draftPasses", c.draft_passes);
    out["draftMs"] = Napi::Number::New(info.Env(), c.draft_ms.load(std::memory_order_relaxed));
    put("expertHits", c.expert_hits);
    put("expertMapped", c.expert_mapped);
    put("expertCpu", c.expert_cpu);
    put("promotedBytes", c.promoted_bytes);
    put("expertFrames", c.expert_frames);
    put("usedFrames", c.used_frames);
    put("savedKvBytes", c.saved_kv_bytes);
    put("tierKvBytes", c.tier_kv_bytes);
    out["stepMs"] = Napi::Number::New(info.Env(), c.step_ms.load(std::memory_order_relaxed));
    out["switchMs"] = Napi::Number::New(info.Env(), c.switch_ms.load(std::memory_order_relaxed));
    out["kvBlocksTotal"] = number(info.Env(), model_->kv_blocks());
    return out;
  }

  Napi::Value memory(const Napi::CallbackInfo& info) {
    const ModelMemory& m = model_->memory();
    const ModelCounters& c = model_->counters();
    Napi::Object out = Napi::Object::New(info.Env());
    out["hostBytes"] = number(info.Env(), m.host_bytes);
    out["residentBytes"] = number(info.Env(), c.resident_bytes.load(std::memory_order_relaxed));
    out["sharedBytes"] = number(info.Env(), c.shared_bytes.load(std::memory_order_relaxed));
    out["ringBytes"] = number(info.Env(), c.ring_bytes.load(std::memory_order_relaxed));
    out["kvBytes"] = number(info.Env(), m.kv_bytes);
    out["kvSwapBytes"] = number(info.Env(), m.kv_swap_bytes);
    out["workspaceBytes"] = number(info.Env(), m.workspace_bytes);
    out["draftHostBytes"] = number(info.Env(), m.draft_host_bytes);
    out["draftDeviceBytes"] = number(info.Env(), m.draft_device_bytes);
    const std::vector<DeviceCounters>& devices = model_->devices();
    Napi::Array list = Napi::Array::New(info.Env(), devices.size());
    for (uint32_t i = 0; i < devices.size(); i++) {
      const DeviceCounters& device = devices[i];
      Napi::Object one = Napi::Object::New(info.Env());
      one["device"] = Napi::String::New(info.Env(), device.name);
      one["residentBytes"] = number(info.Env(), device.resident_bytes.load(std::memory_order_relaxed));
      one["ringBytes"] = number(info.Env(), device.ring_bytes.load(std::memory_order_relaxed));
      one["kvBytes"] = number(info.Env(), device.kv_bytes);
      one["workspaceBytes"] = number(info.Env(), device.workspace_bytes);
      one["copiedBytes"] = number(info.Env(), device.copied_bytes.load(std::memory_order_relaxed));
      one["directHops"] = Napi::Boolean::New(info.Env(), device.direct_hops);
      list[i] = one;
    }
    out["devices"] = list;
    return out;
  }

  // A promise that a worker settles.
  struct Pending {
    std::shared_ptr<Channel> channel;
    std::shared_ptr<Napi::Promise::Deferred> deferred;
    void resolve(std::function<Napi::Value(Napi::Env)> value) const {
      channel->run([raw = channel.get(), deferred = deferred, value = std::move(value)](Napi::Env at) {
        raw->drop(at);
        deferred->Resolve(value(at));
      });
    }
    void reject(const Error& error) const {
      channel->run([raw = channel.get(), deferred = deferred, error](Napi::Env at) {
        raw->drop(at);
        deferred->Reject(to_js(at, error).Value());
      });
    }
  };
  static Pending pending(Napi::Env env) {
    Pending made{Environment::of(env).channel(), std::make_shared<Napi::Promise::Deferred>(env)};
    made.channel->hold(env);
    return made;
  }

  // setHomes({ homes, ringBytes }) -> homes
  Napi::Value set_homes(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      const auto request = info[0].As<Napi::Object>();
      std::vector<Home> homes = homes_field(request, "homes");
      std::vector<size_t> ring_bytes = sizes_field(request, "ringBytes");
      const Pending made = pending(info.Env());
      const auto done = [made](const std::vector<Home>& homes) {
        made.resolve([homes](Napi::Env at) {
          Napi::Array out = Napi::Array::New(at, homes.size());
          for (uint32_t i = 0; i < homes.size(); i++) out[i] = Napi::String::New(at, name_of(homes[i]));
          return out;
        });
      };
      Engine::process().set_homes(model_, std::move(homes), std::move(ring_bytes), done,
                                  [made](const Error& error) { made.reject(error); });
      return made.deferred->Promise();
    });
  }

  // setArena(bytes)
  Napi::Value set_arena(const Napi::CallbackInfo& info) {
    const auto bytes = static_cast<size_t>(info[0].As<Napi::Number>().DoubleValue());
    const Pending made = pending(info.Env());
    Engine::process().set_arena_limit(
        model_, bytes, [made] { made.resolve([](Napi::Env at) { return at.Undefined(); }); },
        [made](const Error& error) { made.reject(error); });
    return made.deferred->Promise();
  }

  // setExpertCache(bytes): what it came to
  Napi::Value set_expert_cache(const Napi::CallbackInfo& info) {
    const auto bytes = static_cast<size_t>(info[0].As<Napi::Number>().DoubleValue());
    const Pending made = pending(info.Env());
    Engine::process().set_expert_cache(
        model_, bytes,
        [made](size_t found) {
          made.resolve([found](Napi::Env at) { return Napi::Number::New(at, static_cast<double>(found)); });
        },
        [made](const Error& error) { made.reject(error); });
    return made.deferred->Promise();
  }

  // trace(path), '': no more
  Napi::Value trace(const Napi::CallbackInfo& info) {
    const Pending made = pending(info.Env());
    Engine::process().trace(
        model_, info[0].As<Napi::String>().Utf8Value(),
        [made] { made.resolve([](Napi::Env at) { return at.Undefined(); }); },
        [made](const Error& error) { made.reject(error); });
    return made.deferred->Promise();
  }

  // traceRoutes(path), '': no more
  Napi::Value trace_routes(const Napi::CallbackInfo& info) {
    const Pending made = pending(info.Env());
    Engine::process().trace_routes(
        model_, info[0].As<Napi::String>().Utf8Value(),
        [made] { made.resolve([](Napi::Env at) { return at.Undefined(); }); },
        [made](const Error& error) { made.reject(error); });
    return made.deferred->Promise();
  }

  Napi::Value close(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    const bool drain = info[0].As<Napi::Boolean>().Value();
    const auto timeout = std::chrono::milliseconds(info[1].As<Napi::Number>().Int64Value());
    auto deferred = std::make_shared<Napi::Promise::Deferred>(env);
    const std::shared_ptr<Channel> channel = Environment::of(env).channel();
    channel->hold(env);
    Engine::process().close(model_, drain, timeout, [channel, deferred, id = model_->id()] {
      channel->run([raw = channel.get(), deferred, id](Napi::Env at) {
        raw->drop(at);
        Environment::of(at).forget(id);
        deferred->Resolve(at.Undefined());
      });
    });
    return deferred->Promise();
  }

  Napi::Value packed(const Napi::CallbackInfo& info) {
    Napi::Object out = Napi::Object::New(info.Env());
    out["state"] = Napi::String::New(info.Env(), name_of(packed_.state));
    out["reason"] = Napi::String::New(info.Env(), packed_.reason);
    return out;
  }

  Napi::Value timings(const Napi::CallbackInfo& info) {
    Napi::Object out = Napi::Object::New(info.Env());
    out["deviceMs"] = Napi::Number::New(info.Env(), timings_[0]);
    out["weightsMs"] = Napi::Number::New(info.Env(), timings_[1]);
    out["totalMs"] = Napi::Number::New(info.Env(), timings_[2]);
    return out;
  }

  // Keeps the slabs in memory until they are written, should the model be closed meanwhile.
  Napi::Value write_packed(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      std::function<std::string()> work = [path = text(info[0], "path"), host = host_.lock()] {
        return host ? millrace::write_packed(path, *host) : std::string("the model was closed");
      };
      std::function<Napi::Value(Napi::Env, std::string&)> settle = [](Napi::Env at, std::string& why) {
        return Napi::String::New(at, why);
      };
      return run_async<std::string>(info.Env(), std::move(work), std::move(settle));
    });
  }

  SharedModel model_;
  RepackReport report_;
  std::weak_ptr<const HostModel> host_;
  PackedOutcome packed_;
  std::array<double, 3> timings_{};
  int vocab_ = 0;
};

std::unique_ptr<Backend> create_backend(const std::string& device, int threads) {
  if (device == "cpu") return create_cpu_backend(threads);
  if (device.rfind("cuda:", 0) == 0 && device.size() <= 8) return create_cuda_backend(std::atoi(device.c_str() + 5));
  throw Error(code::kInvalidArgument, "native call: expected 'cpu' or 'cuda:<index>' for device",
              "call through the package's own API");
}

// What probeGpus() says; then the GPU starts, ahead of a load and after its free memory was read. What fails, the load
// tells.
Napi::Value start_device(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    std::function<GpuProbe()> work = [device = text(info[0], "device")] {
      GpuProbe probe = probe_gpus();
      if (probe.gpus.empty()) return probe;
      std::thread([device] {
        try {
          create_backend(device, 1);
        } catch (const std::exception&) {
        }
      }).detach();
      return probe;
    };
    std::function<Napi::Value(Napi::Env, GpuProbe&)> settle = [](Napi::Env at, GpuProbe& probe) {
      return gpus_to_js(at, probe);
    };
    return run_async<GpuProbe>(info.Env(), std::move(work), std::move(settle));
  });
}

using WeightsSource = decltype(LoadRequest::weights);

// [units]; empty: none stays there.
std::vector<bool> units_in_file(const Napi::Object& request) {
  if (!field(request, "inFile").IsArray()) return {};
  std::vector<bool> in_file;
  const auto array = field(request, "inFile").As<Napi::Array>();
  for (uint32_t i = 0; i < array.Length(); i++) in_file.push_back(array.Get(i).ToBoolean().Value());
  return in_file;
}

// A checkpoint's files, or a generator; and the vocabulary's size.
std::pair<WeightsSource, int> weights_source(const Napi::Object& request) {
  if (field(request, "synthetic").IsObject()) {
    const Napi::Object synthetic = object_field(request, "synthetic");
    const Program model = program(object_field(synthetic, "program"));
    const SyntheticOptions options = synthetic_options(object_field(synthetic, "options"));
    const Napi::Value packed = field(synthetic, "packed");
    const SyntheticFile file{packed.IsString() ? text(packed, "packed") : "", units_in_file(request)};
    return {[=](int threads, const RepackOptions&, const HostPinners& pinners, PackedOutcome&) {
              ThreadPool pool(threads);
              return synthetic_model(model, options, pool, pinners, file);
            },
            model.vocab};
  }
  const std::vector<std::string> paths = string_array(field(request, "paths"), "paths");
  const auto source = std::make_shared<ModelSource>(model_source(object_field(request, "source")));
  const std::string identity = string_field(request, "identity");
  const std::string file = string_field(request, "packed");
  const std::vector<bool> in_file = units_in_file(request);
  return {[=](int threads, const RepackOptions& options, const HostPinners& pinners, PackedOutcome& packed) {
            return HostStore::instance().load(identity, paths, *source, threads, options, pinners, file, &packed,
                                              in_file);
          },
          source->program.vocab};
}

KvType kv_type_field(const Napi::Object& object) {
  return string_field(object, "kvType") == "q8" ? KvType::q8 : KvType::f16;
}

ModelConfig model_config(const Napi::Object& request) {
  ModelConfig config;
  config.homes = homes_field(request, "homes");
  config.ring_bytes = sizes_field(request, "ringBytes");
  config.window_bytes = sizes_field(request, "windowBytes");
  for (const size_t device : sizes_field(request, "unitDevices")) config.devices.push_back(static_cast<int>(device));
  config.direct_hops = bool_field(request, "directHops");
  config.arena_bytes = size_field(request, "arenaBytes");
  config.expert_cache_bytes = size_field(request, "expertCacheBytes");
  if (request.Get("answers").IsObject()) {
    const Napi::Object answers = field(request, "answers").As<Napi::Object>();
    config.expert_threads = int_field(answers, "threads");
    config.answer_rates = {number_field(answers, "linkBytesPerSecond"), number_field(answers, "bytesPerSecond"),
                           number_field(answers, "hopSeconds")};
  }
  config.turn_ms = int_field(request, "turnMs");
  config.cpu_rows = int_field(request, "cpuRows");
  config.context_length = int_field(request, "contextLength");
  for (const size_t blocks : sizes_field(request, "kvBlocks")) {
    config.kv_blocks.push_back(static_cast<int>(std::min<size_t>(blocks, INT32_MAX)));
  }
  config.draft_states = int_field(request, "draftStates");
  config.kv_type = kv_type_field(request);
  config.kv_swap_bytes = size_field(request, "kvSwapBytes");
  config.max_rows = int_field(request, "maxRows");
  config.max_logit_rows = int_field(request, "maxLogitRows");
  config.prefix_reuse = bool_field(request, "prefixReuse");
  config.deterministic = bool_field(request, "deterministic");
  config.max_queue = int_field(request, "maxQueue");
  config.pass_costs = numbers_field(request, "passCosts");
  config.poison = bool_field(request, "poison");
  if (field(request, "drawnRoutes").IsObject()) {
    const Napi::Object object = object_field(request, "drawnRoutes");
    auto drawn = std::make_shared<DrawnRoutes>();
    drawn->entries = int_field(object, "entries");
    const auto experts = field(object, "experts").As<Napi::Uint16Array>();
    drawn->experts.assign(experts.Data(), experts.Data() + experts.ElementLength());
    config.drawn_routes = std::move(drawn);
  }
  const Napi::Value kernels = field(request, "kernels");
  if (!kernels.IsArray()) return config;
  const auto array = kernels.As<Napi::Array>();
  for (uint32_t i = 0; i < array.Length(); i++) config.kernels.push_back(kernel_image(array.Get(i).As<Napi::Object>()));
  return config;
}

// Of a model that drafts for another one, whose vocabulary it has.
std::optional<LoadRequest::Draft> draft_source(const Napi::Object& request, int vocab) {
  if (!field(request, "draft").IsObject()) return std::nullopt;
  const Napi::Object object = object_field(request, "draft");
  LoadRequest::Draft draft;
  draft.weights = weights_source(object).first;
  draft.config.vocab = vocab;
  draft.device = string_field(object, "device");
  draft.config.homes = homes_field(object, "homes");
  draft.config.ring_bytes = size_field(object, "ringBytes");
  draft.config.context_length = int_field(object, "contextLength");
  draft.config.kv_blocks = int_field(object, "kvBlocks");
  draft.config.kv_type = kv_type_field(object);
  draft.config.max_rows = int_field(object, "maxRows");
  draft.config.max_sequences = int_field(object, "maxSequences");
  draft.config.pass_costs = numbers_field(object, "passCosts");
  return draft;
}

// Tells JavaScript's thread of a load's progress, from the loader's.
std::function<void(size_t, size_t)> progress_of(const std::shared_ptr<Channel>& channel, int64_t load_id) {
  return [channel, load_id](size_t done, size_t total) {
    channel->run([raw = channel.get(), load_id, done, total](Napi::Env at) {
      if (raw->listener().IsEmpty()) return;
      Napi::Object event = Napi::Object::New(at);
      event["type"] = Napi::String::New(at, "progress");
      event["load"] = number(at, load_id);
      event["done"] = number(at, done);
      event["total"] = number(at, total);
      Napi::Array batch = Napi::Array::New(at, 1);
      batch[0u] = event;
      raw->listener().Call({batch});
    });
  };
}

Napi::Value load(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    const auto object = info[0].As<Napi::Object>();
    LoadRequest request;
    int vocab = 0;
    std::tie(request.weights, vocab) = weights_source(object);
    request.devices = string_array(field(object, "devices"), "devices");
    request.threads = int_field(object, "threads");
    request.config = model_config(object);
    request.draft = draft_source(object, vocab);
    request.backend = [threads = request.threads](const std::string& device) {
      return create_backend(device, threads);
    };
    const auto load_id = static_cast<int64_t>(size_field(object, "loadId"));

    Environment& environment = Environment::of(env);
    const std::shared_ptr<std::atomic<bool>> cancelled = environment.start_load(load_id);
    std::function<LoadedModel()> work = [request = std::move(request), cancelled,
                                         progress = progress_of(environment.channel(), load_id)] {
      return load_model(request, *cancelled, progress);
    };
    // The engine learns of the model here: one whose environment ended meanwhile is freed by its loader.
    std::function<Napi::Value(Napi::Env, LoadedModel&)> settle = [vocab](Napi::Env at, LoadedModel& loaded) {
      Environment& environment = Environment::of(at);
      Engine::process().add(loaded.model);
      environment.adopt(loaded.model);
      return environment.model_class.New({Napi::External<LoadedModel>::New(at, &loaded), Napi::Number::New(at, vocab)});
    };
    return run_async<LoadedModel>(env, std::move(work), std::move(settle));
  });
}

}  // namespace

void register_model(Napi::Env env, Napi::Object exports) {
  Environment::of(env).model_class = Napi::Persistent(ModelHandle::define(env));
  exports["load"] = Napi::Function::New(env, load, "load");
  exports["startDevice"] = Napi::Function::New(env, start_device, "startDevice");
  exports["samplingOptions"] = Napi::Function::New(
      env,
      [](const Napi::CallbackInfo& info) -> Napi::Value {
        Napi::Array out = Napi::Array::New(info.Env());
        for (const char* name : sampling_option_names()) out[out.Length()] = Napi::String::New(info.Env(), name);
        return out;
      },
      "samplingOptions");
  exports["cancelLoad"] = Napi::Function::New(
      env,
      [](const Napi::CallbackInfo& info) {
        Environment::of(info.Env()).cancel_load(info[0].As<Napi::Number>().Int64Value());
      },
      "cancelLoad");
  exports["attach"] = Napi::Function::New(
      env,
      [](const Napi::CallbackInfo& info) {
        Environment::of(info.Env()).channel()->listen(info[0].As<Napi::Function>());
      },
      "attach");
  exports["ref"] = Napi::Function::New(
      env, [](const Napi::CallbackInfo& info) { Environment::of(info.Env()).channel()->hold(info.Env()); }, "ref");
  exports["unref"] = Napi::Function::New(
      env, [](const Napi::CallbackInfo& info) { Environment::of(info.Env()).channel()->drop(info.Env()); }, "unref");
}

}  // namespace millrace
