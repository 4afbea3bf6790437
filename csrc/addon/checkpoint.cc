#include "addon/checkpoint.h"

#include <optional>

#include "addon/convert.h"
#include "addon/environment.h"
#include "backend/backend.h"
#include "checkpoint/repack.h"

namespace millrace {

namespace {

Napi::Value read_tensors(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    const Checkpoint checkpoint(string_array(info[0], "paths"));
    Napi::Array out = Napi::Array::New(env, checkpoint.tensors().size());
    uint32_t index = 0;
    for (const Tensor& tensor : checkpoint.tensors()) {
      Napi::Object item = Napi::Object::New(env);
      Napi::Array shape = Napi::Array::New(env, tensor.shape.size());
      for (uint32_t i = 0; i < tensor.shape.size(); i++) {
        shape[i] = Napi::Number::New(env, static_cast<double>(tensor.shape[i]));
      }
      item["name"] = Napi::String::New(env, tensor.name);
      item["dtype"] = Napi::String::New(env, tensor.type_name());
      item["shape"] = shape;
      item["file"] = Napi::Number::New(env, tensor.file);
      item["offset"] = Napi::Number::New(env, static_cast<double>(tensor.offset));
      item["bytes"] = Napi::Number::New(env, static_cast<double>(tensor.bytes));
      out[index++] = item;
    }
    return out;
  });
}

Napi::Array types_of(Napi::Env env, const UnitLayout& unit) {
  Napi::Array out = Napi::Array::New(env);
  for (const LinearLayout* linear : {&unit.first, &unit.second}) {
    for (const LinearLayout::Segment& segment : linear->segments) {
      out[out.Length()] = Napi::String::New(env, name_of(segment.matrix.code));
    }
  }
  return out;
}

Napi::Value to_js(Napi::Env at, const SlabPlan& plan) {
  Napi::Array units = Napi::Array::New(at, plan.units.size());
  for (uint32_t i = 0; i < plan.units.size(); i++) {
    const UnitLayout& unit = plan.units[i];
    const char* kind = unit.kind == UnitKind::attention      ? "attention"
                       : unit.kind == UnitKind::feed_forward ? "feedForward"
                                                             : "head";
    Napi::Object item = Napi::Object::New(at);
    item["kind"] = Napi::String::New(at, kind);
    item["layer"] = Napi::Number::New(at, unit.kind == UnitKind::head ? -1 : unit.layer);
    item["bytes"] = Napi::Number::New(at, static_cast<double>(unit.bytes));
    item["types"] = types_of(at, unit);
    units[i] = item;
  }
  const ModelSpec& spec = plan.source.spec;
  Napi::Object out = Napi::Object::New(at);
  out["layoutVersion"] = Napi::Number::New(at, kSlabLayoutVersion);
  out["units"] = units;
  out["embeddingBytes"] = Napi::Number::New(at, static_cast<double>(plan.embedding_bytes));
  out["embeddingType"] = Napi::String::New(at, name_of(plan.embedding_type));
  out["kvBytesPerToken"] =
      Napi::Number::New(at, static_cast<double>(spec.layers * kv_block_bytes(spec) / kKvBlockTokens));
  return out;
}

Napi::Value plan(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    auto paths = string_array(info[0], "paths");
    ModelSource source = model_source(info[1].As<Napi::Object>());
    std::function<SlabPlan()> work = [paths = std::move(paths), source = std::move(source)] {
      return plan_slabs(Checkpoint(paths), source);
    };
    std::function<Napi::Value(Napi::Env, SlabPlan&)> settle = [](Napi::Env at, SlabPlan& plan) {
      return to_js(at, plan);
    };
    return run_async<SlabPlan>(env, std::move(work), std::move(settle));
  });
}

Napi::Value plan_random(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    return to_js(info.Env(),
                 plan_synthetic(model_spec(info[0].As<Napi::Object>()), synthetic_options(info[1].As<Napi::Object>())));
  });
}

}  // namespace

void register_checkpoint(Napi::Env env, Napi::Object exports) {
  exports["readTensors"] = Napi::Function::New(env, read_tensors, "readTensors");
  exports["planSynthetic"] = Napi::Function::New(env, plan_random, "planSynthetic");
  exports["planSlabs"] = Napi::Function::New(env, plan, "planSlabs");
}

}  // namespace millrace
