#include "addon/lab.h"

#include <cmath>
#include <condition_variable>
#include <cstddef>
#include <cstdlib>
#include <deque>

#include "addon/convert.h"
#include "addon/environment.h"
#include "cuda/lab.h"
#include "lab/millrace_kernel.h"
#include "lab/session.h"

namespace millrace {

namespace {

using lab::Session;

Napi::Number number(Napi::Env env, double value) {
  return Napi::Number::New(env, value);
}

std::unique_ptr<lab::Device> open_device(const std::string& device, int threads) {
  if (device == "cpu") return lab::create_cpu_device(threads);
  return create_cuda_lab(std::atoi(device.c_str() + std::string("cuda:").size()));
}

// A thread that runs what it is handed in order and holds the session: JavaScript waits for no device. It ends with the
// last task after close(), and is never joined.
class Worker : public std::enable_shared_from_this<Worker> {
 public:
  using Task = std::function<void(std::unique_ptr<Session>&)>;

  void start() {
    std::thread([self = shared_from_this()] { self->run(); }).detach();
  }
  void post(Task task) {
    {
      std::lock_guard lock(mutex_);
      tasks_.push_back(std::move(task));
    }
    wake_.notify_one();
  }
  void close() {
    post([](std::unique_ptr<Session>& session) { session.reset(); });
    std::lock_guard lock(mutex_);
    closed_ = true;
    wake_.notify_one();
  }

 private:
  void run() {
    std::unique_ptr<Session> session;
    for (;;) {
      Task task;
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [this] { return closed_ || !tasks_.empty(); });
        if (tasks_.empty()) return;
        task = std::move(tasks_.front());
        tasks_.pop_front();
      }
      task(session);
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Task> tasks_;
  bool closed_ = false;
};

// Runs `work` on the worker's thread and settles the promise on the JavaScript thread, as run_async does.
template <typename Result>
Napi::Promise run_on(Worker& worker, Napi::Env env, std::function<Result(std::unique_ptr<Session>&)> work,
                     std::function<Napi::Value(Napi::Env, Result&)> settle) {
  auto deferred = std::make_shared<Napi::Promise::Deferred>(env);
  const Napi::Promise promise = deferred->Promise();
  const std::shared_ptr<Channel> channel = Environment::of(env).channel();
  channel->hold(env);
  worker.post([work = std::move(work), settle = std::move(settle), deferred = std::move(deferred),
               channel](std::unique_ptr<Session>& session) mutable {
    auto result = std::make_shared<std::optional<Result>>();
    auto failure = std::make_shared<std::optional<Error>>();
    try {
      result->emplace(work(session));
    } catch (...) {
      failure->emplace(current_error());
    }
    channel->run([result, failure, settle = std::move(settle), deferred = std::move(deferred),
                  raw = channel.get()](Napi::Env at) {
      raw->drop(at);
      if (*failure) {
        deferred->Reject(to_js(at, **failure).Value());
        return;
      }
      try {
        deferred->Resolve(settle(at, **result));
      } catch (const Napi::Error& error) {
        deferred->Reject(error.Value());
      }
    });
  });
  return promise;
}

struct None {};

std::map<std::string, double> dimensions_of(const Napi::Value& value) {
  std::map<std::string, double> out;
  if (!value.IsObject())
    throw Error(code::kInvalidArgument, "native call: expected an object for dimensions", "use millrace/lab");
  const auto object = value.As<Napi::Object>();
  const Napi::Array names = object.GetPropertyNames();
  for (uint32_t i = 0; i < names.Length(); i++) {
    const std::string name = names.Get(i).As<Napi::String>().Utf8Value();
    out[name] = number_field(object, name.c_str());
  }
  return out;
}

std::vector<std::byte> bytes_of(const Napi::Value& value, const char* name) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array) {
    throw Error(code::kInvalidArgument, format("native call: expected a Uint8Array for %s", name), "use millrace/lab");
  }
  const auto array = value.As<Napi::Uint8Array>();
  const auto* data = reinterpret_cast<const std::byte*>(array.Data());
  return {data, data + array.ByteLength()};
}

lab::LaunchRequest launch_of(const Napi::Value& value) {
  const auto object = value.As<Napi::Object>();
  lab::LaunchRequest request;
  request.operation = string_field(object, "operation");
  request.dimensions = dimensions_of(field(object, "dimensions"));
  request.kernel = static_cast<uint32_t>(size_field(object, "kernel"));
  const auto buffers = field(object, "buffers").As<Napi::Array>();
  for (uint32_t i = 0; i < buffers.Length(); i++) {
    const auto buffer = buffers.Get(i).As<Napi::Object>();
    request.arguments.emplace_back(static_cast<uint32_t>(size_field(buffer, "id")), size_field(buffer, "offset"));
  }
  return request;
}

uint32_t id_of(const Napi::Value& value) {
  return value.As<Napi::Number>().Uint32Value();
}

size_t size_of(const Napi::Value& value) {
  return static_cast<size_t>(value.As<Napi::Number>().Int64Value());
}

class LabHandle : public Napi::ObjectWrap<LabHandle> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(
        env, "NativeLab",
        {InstanceMethod<&LabHandle::allocate>("allocate"), InstanceMethod<&LabHandle::create_stream>("createStream"),
         InstanceMethod<&LabHandle::create_event>("createEvent"), InstanceMethod<&LabHandle::load_kernel>("loadKernel"),
         InstanceMethod<&LabHandle::release>("release"), InstanceMethod<&LabHandle::write>("write"),
         InstanceMethod<&LabHandle::read>("read"), InstanceMethod<&LabHandle::copy>("copy"),
         InstanceMethod<&LabHandle::fill>("fill"), InstanceMethod<&LabHandle::record>("record"),
         InstanceMethod<&LabHandle::wait>("wait"), InstanceMethod<&LabHandle::synchronize>("synchronize"),
         InstanceMethod<&LabHandle::elapsed>("elapsed"), InstanceMethod<&LabHandle::launch>("launch"),
         InstanceMethod<&LabHandle::time>("time"), InstanceMethod<&LabHandle::randomise>("randomise"),
         InstanceMethod<&LabHandle::read_bandwidth>("readBandwidth"), InstanceMethod<&LabHandle::close>("close")});
  }

  explicit LabHandle(const Napi::CallbackInfo& info) : Napi::ObjectWrap<LabHandle>(info) {
    if (info.Length() != 1 || !info[0].IsExternal()) throw Napi::TypeError::New(info.Env(), "use open()");
    worker_ = *info[0].As<Napi::External<std::shared_ptr<Worker>>>().Data();
  }
  ~LabHandle() override { worker_->close(); }

 private:
  template <typename Result>
  Napi::Value run(Napi::Env env, std::function<Result(Session&)> work,
                  std::function<Napi::Value(Napi::Env, Result&)> settle) {
    return run_on<Result>(
        *worker_, env,
        [work = std::move(work)](std::unique_ptr<Session>& session) -> Result {
          if (session == nullptr) throw Error(code::kModelClosed, "the lab is closed", "open another");
          return work(*session);
        },
        std::move(settle));
  }
  Napi::Value run_id(Napi::Env env, std::function<uint32_t(Session&)> work) {
    return run<uint32_t>(env, std::move(work),
                         [](Napi::Env at, uint32_t& id) -> Napi::Value { return number(at, id); });
  }
  Napi::Value run_none(Napi::Env env, std::function<void(Session&)> work) {
    return run<None>(
        env,
        [work = std::move(work)](Session& session) {
          work(session);
          return None{};
        },
        [](Napi::Env at, None&) -> Napi::Value { return at.Undefined(); });
  }
  Napi::Value run_number(Napi::Env env, std::function<double(Session&)> work) {
    return run<double>(env, std::move(work),
                       [](Napi::Env at, double& value) -> Napi::Value { return number(at, value); });
  }

  Napi::Value allocate(const Napi::CallbackInfo& info) {
    return run_id(info.Env(), [bytes = size_of(info[0]), host = info[1].As<Napi::Boolean>().Value()](Session& session) {
      return session.allocate(bytes, host);
    });
  }
  Napi::Value create_stream(const Napi::CallbackInfo& info) {
    return run_id(info.Env(), [](Session& session) { return session.create_stream(); });
  }
  Napi::Value create_event(const Napi::CallbackInfo& info) {
    return run_id(info.Env(), [](Session& session) { return session.create_event(); });
  }
  Napi::Value load_kernel(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      KernelImage image = kernel_image(info[0].As<Napi::Object>());
      struct Loaded {
        uint32_t id;
        lab::Kernel::Facts facts;
      };
      return run<Loaded>(
          info.Env(),
          [image = std::move(image)](Session& session) {
            const uint32_t id = session.load_kernel(image);
            return Loaded{id, session.facts(id)};
          },
          [](Napi::Env at, Loaded& loaded) -> Napi::Value {
            Napi::Object out = Napi::Object::New(at);
            out["id"] = number(at, loaded.id);
            out["threads"] = number(at, loaded.facts.threads);
            out["registers"] = number(at, loaded.facts.registers);
            out["sharedBytes"] = number(at, loaded.facts.shared_bytes);
            out["localBytes"] = number(at, loaded.facts.local_bytes);
            return out;
          });
    });
  }
  Napi::Value release(const Napi::CallbackInfo& info) {
    return run_none(info.Env(), [id = id_of(info[0])](Session& session) { session.release(id); });
  }
  Napi::Value write(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      return run_none(info.Env(), [id = id_of(info[0]), offset = size_of(info[1]), bytes = bytes_of(info[2], "data")](
                                      Session& session) { session.write(id, offset, bytes); });
    });
  }
  Napi::Value read(const Napi::CallbackInfo& info) {
    return run<std::vector<std::byte>>(
        info.Env(),
        [id = id_of(info[0]), offset = size_of(info[1]), bytes = size_of(info[2])](Session& session) {
          return session.read(id, offset, bytes);
        },
        [](Napi::Env at, std::vector<std::byte>& bytes) -> Napi::Value {
          Napi::ArrayBuffer out = Napi::ArrayBuffer::New(at, bytes.size());
          std::copy(bytes.begin(), bytes.end(), static_cast<std::byte*>(out.Data()));
          return out;
        });
  }
  Napi::Value copy(const Napi::CallbackInfo& info) {
    return run_none(info.Env(),
                    [stream = id_of(info[0]), to = id_of(info[1]), to_offset = size_of(info[2]), from = id_of(info[3]),
                     from_offset = size_of(info[4]), bytes = size_of(info[5])](Session& session) {
                      session.copy(stream, to, to_offset, from, from_offset, bytes);
                    });
  }
  Napi::Value fill(const Napi::CallbackInfo& info) {
    return run_none(info.Env(), [stream = id_of(info[0]), buffer = id_of(info[1]), offset = size_of(info[2]),
                                 bytes = size_of(info[3]), value = id_of(info[4])](Session& session) {
      session.fill(stream, buffer, offset, bytes, static_cast<uint8_t>(value));
    });
  }
  Napi::Value record(const Napi::CallbackInfo& info) {
    return run_none(info.Env(), [stream = id_of(info[0]), event = id_of(info[1])](Session& session) {
      session.record(stream, event);
    });
  }
  Napi::Value wait(const Napi::CallbackInfo& info) {
    return run_none(info.Env(), [stream = id_of(info[0]), event = id_of(info[1])](Session& session) {
      session.wait(stream, event);
    });
  }
  Napi::Value synchronize(const Napi::CallbackInfo& info) {
    return run_none(info.Env(), [stream = id_of(info[0])](Session& session) { session.synchronize(stream); });
  }
  Napi::Value elapsed(const Napi::CallbackInfo& info) {
    return run_number(info.Env(), [begin = id_of(info[0]), end = id_of(info[1])](Session& session) {
      return session.elapsed_ms(begin, end);
    });
  }
  Napi::Value launch(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      return run_none(info.Env(), [stream = id_of(info[0]), request = launch_of(info[1])](Session& session) {
        session.launch(stream, request);
      });
    });
  }
  Napi::Value time(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      std::vector<lab::LaunchRequest> requests;
      const auto array = info[0].As<Napi::Array>();
      for (uint32_t i = 0; i < array.Length(); i++) requests.push_back(launch_of(array.Get(i)));
      return run<std::vector<double>>(
          info.Env(),
          [requests = std::move(requests), count = static_cast<int>(id_of(info[1])),
           repeats = static_cast<int>(id_of(info[2]))](Session& session) {
            return session.time(requests, count, repeats);
          },
          [](Napi::Env at, std::vector<double>& times) -> Napi::Value {
            Napi::Array out = Napi::Array::New(at, times.size());
            for (uint32_t i = 0; i < times.size(); i++) out[i] = number(at, times[i]);
            return out;
          });
    });
  }
  Napi::Value randomise(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      return run_none(info.Env(), [request = launch_of(info[0]), seed = static_cast<uint64_t>(size_of(info[1])),
                                   outputs = info[2].As<Napi::Boolean>().Value()](Session& session) {
        session.randomise(request, seed, outputs);
      });
    });
  }
  Napi::Value read_bandwidth(const Napi::CallbackInfo& info) {
    return run_number(info.Env(), [](Session& session) { return session.read_bandwidth(); });
  }
  Napi::Value close(const Napi::CallbackInfo& info) {
    return run_on<None>(
        *worker_, info.Env(),
        [](std::unique_ptr<Session>& session) {
          session.reset();
          return None{};
        },
        [](Napi::Env at, None&) -> Napi::Value { return at.Undefined(); });
  }

  std::shared_ptr<Worker> worker_;
};

Napi::Value open(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    const std::string device = info[0].As<Napi::String>().Utf8Value();
    const int threads = info[1].As<Napi::Number>().Int32Value();
    auto worker = std::make_shared<Worker>();
    worker->start();
    return run_on<std::shared_ptr<Worker>>(
        *worker, env,
        [device, threads, worker](std::unique_ptr<Session>& session) {
          try {
            session = std::make_unique<Session>(open_device(device, threads));
          } catch (...) {
            worker->close();
            throw;
          }
          return worker;
        },
        [](Napi::Env at, std::shared_ptr<Worker>& opened) -> Napi::Value {
          return Environment::of(at).lab_class.New({Napi::External<std::shared_ptr<Worker>>::New(at, &opened)});
        });
  });
}

Napi::Object argument_js(Napi::Env env, const lab::Parameter& parameter) {
  Napi::Object out = Napi::Object::New(env);
  out["name"] = Napi::String::New(env, parameter.name);
  out["access"] = Napi::String::New(env, parameter.access == lab::Access::in    ? "in"
                                         : parameter.access == lab::Access::out ? "out"
                                                                                : "inout");
  return out;
}

Napi::Value operations(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Napi::Array out = Napi::Array::New(env);
  for (const lab::Operation& operation : lab::operations()) {
    Napi::Object item = Napi::Object::New(env);
    item["name"] = Napi::String::New(env, operation.name);
    item["what"] = Napi::String::New(env, operation.what);
    item["replaceable"] = Napi::Boolean::New(env, operation.replaceable);
    Napi::Array dimensions = Napi::Array::New(env);
    for (const lab::Dimension& dimension : operation.dimensions) {
      Napi::Object d = Napi::Object::New(env);
      d["name"] = Napi::String::New(env, dimension.name);
      d["what"] = Napi::String::New(env, dimension.what);
      d["required"] = Napi::Boolean::New(env, std::isnan(dimension.fallback));
      if (!std::isnan(dimension.fallback)) d["fallback"] = number(env, dimension.fallback);
      d["least"] = number(env, dimension.least);
      d["most"] = number(env, dimension.most);
      d["integer"] = Napi::Boolean::New(env, dimension.integer);
      dimensions[dimensions.Length()] = d;
    }
    item["dimensions"] = dimensions;
    Napi::Array arguments = Napi::Array::New(env);
    for (const lab::Parameter& parameter : operation.parameters) {
      Napi::Object argument = argument_js(env, parameter);
      argument["type"] = Napi::String::New(env, lab::name_of(parameter.element));
      argument["shape"] = Napi::String::New(env, parameter.shape);
      argument["what"] = Napi::String::New(env, parameter.what);
      arguments[arguments.Length()] = argument;
    }
    item["arguments"] = arguments;
    out[out.Length()] = item;
  }
  return out;
}

Napi::Value describe(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    const lab::Problem problem = lab::make_problem(info[0].As<Napi::String>().Utf8Value(), dimensions_of(info[1]));
    Napi::Object out = Napi::Object::New(env);
    Napi::Object dimensions = Napi::Object::New(env);
    for (const auto& [name, value] : problem.dimensions) dimensions[name] = number(env, value);
    out["operation"] = Napi::String::New(env, problem.operation->name);
    out["dimensions"] = dimensions;
    Napi::Array arguments = Napi::Array::New(env);
    for (const lab::Argument& argument : problem.arguments) {
      Napi::Object item = argument_js(env, *argument.parameter);
      item["type"] = Napi::String::New(env, lab::name_of(argument.element));
      Napi::Array shape = Napi::Array::New(env);
      for (const int64_t extent : argument.shape) shape[shape.Length()] = number(env, static_cast<double>(extent));
      item["shape"] = shape;
      item["bytes"] = number(env, static_cast<double>(argument.bytes));
      arguments[arguments.Length()] = item;
    }
    out["arguments"] = arguments;
    out["weightBytes"] = number(env, static_cast<double>(problem.weight_bytes));
    out["bytes"] = number(env, static_cast<double>(problem.bytes));
    out["operations"] = number(env, problem.operations);
    if (problem.matrix.n > 0) {
      const MatrixLayout& m = problem.matrix;
      Napi::Object matrix = Napi::Object::New(env);
      const auto put = [&](const char* name, size_t value) { matrix[name] = number(env, static_cast<double>(value)); };
      put("offset", m.offset);
      put("permutationOffset", m.permutation_offset);
      put("kStored", m.k_stored);
      put("rowBlocks", m.n_blocks());
      put("rowBlockBytes", m.row_block_bytes());
      put("groups", m.groups());
      put("groupBytes", m.grouped() ? m.group_bytes() : 0);
      put("groupHeaderBytes", m.grouped() ? m.group_header_bytes() : 0);
      put("spanHeaderBytes", m.span_bytes());
      put("tileBytes", m.tile_bytes());
      out["matrix"] = matrix;
    }
    return out;
  });
}

// The layout as the encoders have it, for what is published to be held against: places are found by encoding.
Napi::Value slab_layout(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Napi::Object out = Napi::Object::New(env);
  out["version"] = number(env, kSlabLayoutVersion);
  out["tileN"] = number(env, kTileN);
  out["tileK"] = number(env, kTileK);
  out["q4TileBytes"] = number(env, kQ4TileBytes);
  out["alignment"] = number(env, kSlabAlignment);
  out["padding"] = number(env, kPadding);
  // [n * 16 + k]: nibble of a q4 tile, element of a float tile. [n]: scale and zero.
  Napi::Array nibbles = Napi::Array::New(env), elements = Napi::Array::New(env), scales = Napi::Array::New(env);
  uint16_t places[kTileN * kTileK], tile[kTileN * kTileK];
  for (int i = 0; i < kTileN * kTileK; i++) places[i] = static_cast<uint16_t>(i);
  encode_float_tile(places, tile);
  for (int i = 0; i < kTileN * kTileK; i++) elements[tile[i]] = number(env, i);
  for (int i = 0; i < kTileN * kTileK; i++) {
    uint8_t q[kTileN * kTileK] = {};
    q[i] = 15;
    std::byte packed[kQ4TileBytes];
    encode_tile(WeightType::q4, q, packed);
    for (size_t at = 0; at < 2 * kQ4TileBytes; at++) {
      if ((static_cast<int>(packed[at / 2]) >> (4 * (at % 2)) & 15) == 15)
        nibbles[i] = number(env, static_cast<double>(at));
    }
  }
  for (int n = 0; n < kTileN; n++) scales[n] = number(env, tile_index(n));
  out["nibbleOf"] = nibbles;
  out["elementOf"] = elements;
  out["scaleOf"] = scales;
  return out;
}

Napi::Value kernel_arguments(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto fields = [&](std::initializer_list<std::pair<const char*, size_t>> offsets, size_t bytes) {
    Napi::Object out = Napi::Object::New(env);
    out["bytes"] = number(env, static_cast<double>(bytes));
    Napi::Object at = Napi::Object::New(env);
    for (const auto& [name, offset] : offsets) at[name] = number(env, static_cast<double>(offset));
    out["offsets"] = at;
    return out;
  };
  Napi::Object out = Napi::Object::New(env);
  out["version"] = number(env, MILLRACE_KERNEL_VERSION);
#define AT(name) {#name, offsetof(millrace_linear, name)}
  out["linear"] = fields({AT(units),
                          AT(matrix_offset),
                          AT(permutation_offset),
                          AT(x),
                          AT(y),
                          AT(act),
                          AT(unit),
                          AT(rows),
                          AT(n),
                          AT(k),
                          AT(k_stored),
                          AT(group),
                          AT(weight_type),
                          AT(scale_type),
                          AT(zeros),
                          AT(permuted),
                          AT(epilogue),
                          AT(x_stride),
                          AT(y_stride),
                          AT(act_stride),
                          AT(intermediate)},
                         sizeof(millrace_linear));
#undef AT
#define AT(name) {#name, offsetof(millrace_tile, name)}
  out["tile"] = fields({AT(expert), AT(first), AT(rows)}, sizeof(millrace_tile));
#undef AT
#define AT(name) {#name, offsetof(millrace_experts, name)}
  out["experts"] = fields({AT(units),
                           AT(addresses),
                           AT(first),
                           AT(stride),
                           AT(matrix_offset),
                           AT(permutation_offset),
                           AT(bias_offset),
                           AT(x),
                           AT(y),
                           AT(act),
                           AT(tiles),
                           AT(tile_count),
                           AT(places),
                           AT(alpha),
                           AT(limit),
                           AT(unit),
                           AT(experts),
                           AT(rows),
                           AT(top_k),
                           AT(tile_rows),
                           AT(x_divisor),
                           AT(n),
                           AT(k),
                           AT(k_stored),
                           AT(group),
                           AT(weight_type),
                           AT(scale_type),
                           AT(zeros),
                           AT(permuted),
                           AT(epilogue),
                           AT(x_stride),
                           AT(y_stride),
                           AT(act_stride),
                           AT(intermediate)},
                          sizeof(millrace_experts));
#undef AT
#define AT(name) {#name, offsetof(millrace_route, name)}
  out["route"] =
      fields({AT(units), AT(bias_offset), AT(logits), AT(positions), AT(routes), AT(unit), AT(rows), AT(experts),
              AT(top_k), AT(groups), AT(top_groups), AT(group_best), AT(sigmoid), AT(renormalise), AT(scale)},
             sizeof(millrace_route));
#undef AT
#define AT(name) {#name, offsetof(millrace_combine, name)}
  out["combine"] = fields({AT(answers), AT(routes), AT(positions), AT(out), AT(rows), AT(top_k), AT(width),
                           AT(out_stride), AT(adds), AT(scale)},
                          sizeof(millrace_combine));
#undef AT
#define AT(name) {#name, offsetof(millrace_launch, name)}
  out["launch"] = fields({AT(threads), AT(features_per_block), AT(rows_per_block), AT(shared_bytes), AT(programmatic)},
                         sizeof(millrace_launch));
#undef AT
  return out;
}

}  // namespace

KernelImage kernel_image(const Napi::Object& object) {
  return {string_field(object, "operation"), string_field(object, "source"), bytes_of(field(object, "image"), "image")};
}

void register_lab(Napi::Env env, Napi::Object exports) {
  Environment::of(env).lab_class = Napi::Persistent(LabHandle::define(env));
  Napi::Object lab = Napi::Object::New(env);
  lab["open"] = Napi::Function::New(env, open, "open");
  lab["operations"] = Napi::Function::New(env, operations, "operations");
  lab["describe"] = Napi::Function::New(env, describe, "describe");
  lab["slabLayout"] = Napi::Function::New(env, slab_layout, "slabLayout");
  lab["kernelArguments"] = Napi::Function::New(env, kernel_arguments, "kernelArguments");
  exports["lab"] = lab;
}

}  // namespace millrace
