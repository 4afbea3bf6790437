#include "addon/checkpoint.h"

#include <cstring>
#include <optional>

#include "addon/convert.h"
#include "addon/environment.h"
#include "addon/program.h"
#include "backend/backend.h"
#include "checkpoint/gguf.h"
#include "checkpoint/mapped_file.h"
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
      item["known"] = Napi::Boolean::New(env, tensor.dtype != DType::other);
      item["shape"] = shape;
      item["file"] = Napi::Number::New(env, tensor.file);
      item["offset"] = Napi::Number::New(env, static_cast<double>(tensor.offset));
      item["bytes"] = Napi::Number::New(env, static_cast<double>(tensor.bytes));
      out[index++] = item;
    }
    return out;
  });
}

// A metadata number as JavaScript's own where that is exact.
Napi::Value number_value(Napi::Env env, GgufType type, const char* from) {
  const auto get = [&]<typename T>(T value) {
    std::memcpy(&value, from, sizeof(value));
    return value;
  };
  const auto exact = [&](double value) { return Napi::Number::New(env, value); };
  switch (type) {
    case GgufType::u8:
      return exact(get(uint8_t{}));
    case GgufType::i8:
      return exact(get(int8_t{}));
    case GgufType::u16:
      return exact(get(uint16_t{}));
    case GgufType::i16:
      return exact(get(int16_t{}));
    case GgufType::u32:
      return exact(get(uint32_t{}));
    case GgufType::i32:
      return exact(get(int32_t{}));
    case GgufType::f32:
      return exact(static_cast<double>(get(float{})));
    case GgufType::f64:
      return exact(get(double{}));
    case GgufType::boolean:
      return Napi::Boolean::New(env, get(uint8_t{}) != 0);
    case GgufType::u64: {
      const uint64_t value = get(uint64_t{});
      if (value <= uint64_t{1} << 53) return exact(static_cast<double>(value));
      return Napi::BigInt::New(env, value);
    }
    default: {
      const int64_t value = get(int64_t{});
      if (value <= int64_t{1} << 53 && value >= -(int64_t{1} << 53)) return exact(static_cast<double>(value));
      return Napi::BigInt::New(env, value);
    }
  }
}

template <typename Typed>
Napi::Value numbers(Napi::Env env, const GgufPair& pair) {
  Napi::ArrayBuffer buffer = Napi::ArrayBuffer::New(env, pair.bytes.size());
  if (!pair.bytes.empty()) std::memcpy(buffer.Data(), pair.bytes.data(), pair.bytes.size());
  return Typed::New(env, pair.count, buffer, 0);
}

// Strings one after the other and where each ends: a vocabulary is hundreds of thousands of them.
Napi::Value strings(Napi::Env env, const GgufPair& pair) {
  const size_t count = pair.count;
  Napi::Uint32Array ends = Napi::Uint32Array::New(env, count);
  Napi::Buffer<char> bytes = Napi::Buffer<char>::New(env, pair.bytes.size() - count * sizeof(uint64_t));
  const char* from = pair.bytes.data();
  size_t at = 0;
  for (size_t i = 0; i < count; i++) {
    uint64_t length;
    std::memcpy(&length, from, sizeof(length));
    if (length > 0) std::memcpy(bytes.Data() + at, from + sizeof(length), length);
    from += sizeof(length) + length;
    at += length;
    ends[i] = static_cast<uint32_t>(at);
  }
  if (at > UINT32_MAX) throw Error(code::kCheckpointUnsupported, "metadata of more than 4 GiB", "shorten it");
  Napi::Object out = Napi::Object::New(env);
  out["bytes"] = bytes;
  out["ends"] = ends;
  return out;
}

Napi::Value array_value(Napi::Env env, const GgufPair& pair) {
  switch (pair.element) {
    case GgufType::u8:
    case GgufType::boolean:
      return numbers<Napi::Uint8Array>(env, pair);
    case GgufType::i8:
      return numbers<Napi::Int8Array>(env, pair);
    case GgufType::u16:
      return numbers<Napi::Uint16Array>(env, pair);
    case GgufType::i16:
      return numbers<Napi::Int16Array>(env, pair);
    case GgufType::u32:
      return numbers<Napi::Uint32Array>(env, pair);
    case GgufType::i32:
      return numbers<Napi::Int32Array>(env, pair);
    case GgufType::f32:
      return numbers<Napi::Float32Array>(env, pair);
    case GgufType::f64:
      return numbers<Napi::Float64Array>(env, pair);
    case GgufType::u64:
      return numbers<Napi::BigUint64Array>(env, pair);
    case GgufType::i64:
      return numbers<Napi::BigInt64Array>(env, pair);
    default:
      return strings(env, pair);
  }
}

// Names stay names: '__proto__' is a key like any other.
Napi::Value read_gguf(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    if (!info[0].IsString()) {
      throw Error(code::kInvalidArgument, "native call: expected a path", "call through the package's own API");
    }
    const std::string path = info[0].As<Napi::String>().Utf8Value();
    const MappedFile file(path);
    const std::string_view text(reinterpret_cast<const char*>(file.data()), file.size());
    const Gguf gguf = parse_gguf(text, file.size(), path);
    Napi::Array keys = Napi::Array::New(env, gguf.pairs.size()), values = Napi::Array::New(env, gguf.pairs.size());
    for (uint32_t i = 0; i < gguf.pairs.size(); i++) {
      const GgufPair& pair = gguf.pairs[i];
      keys[i] = Napi::String::New(env, pair.key.data(), pair.key.size());
      values[i] = pair.type == GgufType::array    ? array_value(env, pair)
                  : pair.type == GgufType::string ? Napi::String::New(env, pair.bytes.data(), pair.bytes.size())
                                                  : number_value(env, pair.type, pair.bytes.data());
    }
    Napi::Object out = Napi::Object::New(env);
    out["version"] = Napi::Number::New(env, gguf.version);
    out["keys"] = keys;
    out["values"] = values;
    out["tensorCount"] = Napi::Number::New(env, static_cast<double>(gguf.tensors.size()));
    return out;
  });
}

Napi::Array types_of(Napi::Env env, const UnitLayout& unit) {
  Napi::Array out = Napi::Array::New(env);
  for (const LinearLayout& linear : unit.linears) {
    for (const LinearLayout::Segment& segment : linear.segments) {
      out[out.Length()] = Napi::String::New(env, name_of(segment.matrix.code.type));
    }
  }
  return out;
}

int kv_class_of(const ProgramUnit& unit) {
  for (const Op& op : unit.ops) {
    if (const auto place = kept_by(op)) return place->kv_class;
  }
  return kNone;
}

// Of a unit with a mixture: how many experts, how many of them answer a row, bytes of all.
Napi::Value experts_of(Napi::Env at, const Program& program, const ProgramUnit& unit, const UnitLayout& layout) {
  for (const Op& op : unit.ops) {
    const auto* experts = std::get_if<ExpertsOp>(&op);
    if (experts == nullptr) continue;
    size_t bytes = 0;
    for (int linear = experts->linear; linear < experts->linear + 2 * experts->experts; linear++) {
      for (const LinearLayout::Segment& segment : layout.linears[linear].segments) bytes += segment.matrix.bytes;
    }
    Napi::Object out = Napi::Object::New(at);
    out["count"] = Napi::Number::New(at, experts->experts);
    out["chosen"] = Napi::Number::New(at, program.values[experts->routes] / 2);
    out["bytes"] = Napi::Number::New(at, static_cast<double>(bytes));
    return out;
  }
  return at.Undefined();
}

Napi::Value to_js(Napi::Env at, const SlabPlan& plan) {
  const Program& program = plan.source.program;
  Napi::Array units = Napi::Array::New(at, plan.units.size());
  for (uint32_t i = 0; i < plan.units.size(); i++) {
    const ProgramUnit& unit = program.units[i];
    Napi::Object item = Napi::Object::New(at);
    item["name"] = Napi::String::New(at, unit.name);
    item["layer"] = Napi::Number::New(at, unit.head ? -1 : unit.layer);
    item["kind"] = Napi::String::New(at, unit.head                                   ? "head"
                                         : program.stands_alone(static_cast<int>(i)) ? "feedForward"
                                                                                     : "attention");
    item["kvClass"] = Napi::Number::New(at, kv_class_of(unit));
    item["bytes"] = Napi::Number::New(at, static_cast<double>(plan.units[i].bytes));
    item["types"] = types_of(at, plan.units[i]);
    const Napi::Value experts = experts_of(at, program, unit, plan.units[i]);
    if (!experts.IsUndefined()) item["experts"] = experts;
    units[i] = item;
  }
  Napi::Array kv = Napi::Array::New(at, program.kv.size());
  const std::vector<KvClass> q8 = kept_as(program.kv, KvType::q8);
  double kv_bytes = 0;
  for (uint32_t i = 0; i < program.kv.size(); i++) {
    const KvClass& kv_class = program.kv[i];
    Napi::Object item = Napi::Object::New(at);
    item["layers"] = Napi::Number::New(at, kv_class.layers);
    item["window"] = Napi::Number::New(at, kv_class.window);
    const auto block = [&](const KvClass& as) { return static_cast<double>(as.layers * kv_block_bytes(as)); };
    const bool state = kv_class.state > 0;
    const double bytes = state ? 0 : block(kv_class) / kKvBlockTokens;
    item["bytesPerToken"] = Napi::Number::New(at, bytes);
    const KvClass& narrow = q8[i];
    if (narrow.type == KvType::q8) item["q8BytesPerToken"] = Napi::Number::New(at, block(narrow) / kKvBlockTokens);
    item["bytesPerSequence"] = Napi::Number::New(at, state ? block(kv_class) : 0);
    kv_bytes += bytes;
    kv[i] = item;
  }
  Napi::Object out = Napi::Object::New(at);
  out["layoutVersion"] = Napi::Number::New(at, kSlabLayoutVersion);
  out["units"] = units;
  out["kv"] = kv;
  out["kvBytesPerToken"] = Napi::Number::New(at, kv_bytes);
  out["embeddingBytes"] = Napi::Number::New(at, static_cast<double>(plan.embedding_bytes));
  out["embeddingType"] = Napi::String::New(at, name_of(plan.tables[0].type));
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
                 plan_synthetic(program(info[0].As<Napi::Object>()), synthetic_options(info[1].As<Napi::Object>())));
  });
}

}  // namespace

void register_checkpoint(Napi::Env env, Napi::Object exports) {
  exports["readTensors"] = Napi::Function::New(env, read_tensors, "readTensors");
  exports["readGguf"] = Napi::Function::New(env, read_gguf, "readGguf");
  exports["planSynthetic"] = Napi::Function::New(env, plan_random, "planSynthetic");
  exports["planSlabs"] = Napi::Function::New(env, plan, "planSlabs");
}

}  // namespace millrace
