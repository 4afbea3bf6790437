#include "addon/probe.h"

#include "addon/environment.h"
#include "backend/cpu/linear.h"
#include "core/cpu_info.h"
#include "cuda/cuda_backend.h"
#include "stream/host_store.h"
#include "stream/link.h"
#include "stream/read_rate.h"

namespace millrace {

namespace {

Napi::Value number(Napi::Env env, uint64_t value) {
  return Napi::Number::New(env, static_cast<double>(value));
}

}  // namespace

Napi::Object gpus_to_js(Napi::Env env, const GpuProbe& probe) {
  Napi::Array gpus = Napi::Array::New(env);
  for (const GpuInfo& gpu : probe.gpus) {
    Napi::Object item = Napi::Object::New(env);
    item.Set("index", gpu.index);
    item.Set("name", gpu.name);
    item.Set("computeCapability", std::to_string(gpu.compute_major) + "." + std::to_string(gpu.compute_minor));
    item.Set("memoryBytes", number(env, gpu.memory_bytes));
    item.Set("memoryFreeBytes", number(env, gpu.memory_free_bytes));
    item.Set("link", gpu.link);
    gpus.Set(gpus.Length(), item);
  }
  Napi::Object result = Napi::Object::New(env);
  result.Set("gpus", gpus);
  result.Set("reason", probe.reason);
  result.Set("lost", probe.lost);
  return result;
}

namespace {

Napi::Value probe_cpu(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const CpuInfo cpu = cpu_info();
  Napi::Array features = Napi::Array::New(env);
  for (const std::string& feature : cpu.features) features.Set(features.Length(), feature);
  Napi::Object result = Napi::Object::New(env);
  result.Set("arch", cpu.arch);
  result.Set("model", cpu.model);
  result.Set("features", features);
  result.Set("kernels", selected_kernels());
  result.Set("cores", cpu.cores);
  result.Set("coresOnline", cpu.cores_online);
  result.Set("memoryBytes", number(env, cpu.memory_bytes));
  result.Set("memoryLimitBytes", number(env, cpu.memory_limit_bytes));
  result.Set("memoryAvailableBytes", number(env, cpu.memory_available_bytes));
  return result;
}

Napi::Value probe_gpus_js(const Napi::CallbackInfo& info) {
  return gpus_to_js(info.Env(), probe_gpus());
}

Napi::Value measure_dram_bandwidth_js(const Napi::CallbackInfo& info) {
  const int threads = info[0].As<Napi::Number>().Int32Value();
  return run_async<double>(
      info.Env(), [threads] { return measure_dram_bandwidth(threads, dram_buffer_bytes(cpu_info())); },
      [](Napi::Env env, double& rate) -> Napi::Value { return Napi::Number::New(env, rate); });
}

Napi::Value measure_link_bandwidth_js(const Napi::CallbackInfo& info) {
  const int device = info[0].As<Napi::Number>().Int32Value();
  return run_async<double>(
      info.Env(),
      [device] {
        const std::unique_ptr<Backend> backend = create_cuda_backend(device);
        return measure_copy_bandwidth(*backend, size_t{1} << 30);
      },
      [](Napi::Env env, double& rate) -> Napi::Value { return Napi::Number::New(env, rate); });
}

Napi::Value measure_read_rate_js(const Napi::CallbackInfo& info) {
  ReadRateOptions options;
  options.seconds = info[1].As<Napi::Number>().DoubleValue();
  return run_async<double>(
      info.Env(),
      [path = info[0].As<Napi::String>().Utf8Value(), options] {
        return measure_read_rate(path, options).bytes_per_second;
      },
      [](Napi::Env env, double& rate) -> Napi::Value { return Napi::Number::New(env, rate); });
}

Napi::Value weight_bytes(const Napi::CallbackInfo& info) {
  return number(info.Env(), HostModel::all_bytes());
}

Napi::Value holds_weights(const Napi::CallbackInfo& info) {
  const bool held = HostStore::instance().holds(info[0].As<Napi::String>().Utf8Value());
  return Napi::Boolean::New(info.Env(), held);
}

}  // namespace

void register_probe(Napi::Env env, Napi::Object exports) {
  exports.Set("probeCpu", Napi::Function::New(env, probe_cpu, "probeCpu"));
  exports.Set("holdsWeights", Napi::Function::New(env, holds_weights, "holdsWeights"));
  exports.Set("weightBytes", Napi::Function::New(env, weight_bytes, "weightBytes"));
  exports.Set("probeGpus", Napi::Function::New(env, probe_gpus_js, "probeGpus"));
  exports.Set("measureLinkBandwidth", Napi::Function::New(env, measure_link_bandwidth_js, "measureLinkBandwidth"));
  exports.Set("measureReadRate", Napi::Function::New(env, measure_read_rate_js, "measureReadRate"));
  exports.Set("measureDramBandwidth", Napi::Function::New(env, measure_dram_bandwidth_js, "measureDramBandwidth"));
}

}  // namespace millrace
