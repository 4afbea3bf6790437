#include "addon/program.h"

#include <cmath>
#include <functional>
#include <iterator>

#include "addon/convert.h"
#include "core/error.h"

namespace millrace {

namespace {

Error wrong(const std::string& what, const std::string& found) {
  return Error(code::kInvalidArgument, format("native call: unknown %s '%s'", what.c_str(), found.c_str()),
               "call through the package's own API");
}

// Calls body(object, index) for every object of an array.
template <typename Body>
void for_objects(const Napi::Object& object, const char* name, Body&& body) {
  const Napi::Array array = array_field(object, name);
  for (uint32_t i = 0; i < array.Length(); i++) {
    const Napi::Value item = array[i];
    if (!item.IsObject()) throw wrong_type(name, "an array of objects");
    body(item.As<Napi::Object>());
  }
}

bool has(const Napi::Object& object, const char* name) {
  return !field(object, name).IsUndefined();
}
int int_or(const Napi::Object& object, const char* name, int otherwise) {
  return has(object, name) ? int_field(object, name) : otherwise;
}
double number_or(const Napi::Object& object, const char* name, double otherwise) {
  return has(object, name) ? number_field(object, name) : otherwise;
}
bool bool_or(const Napi::Object& object, const char* name, bool otherwise) {
  return has(object, name) ? bool_field(object, name) : otherwise;
}

template <typename Value>
Value one_of(const Napi::Object& object, const char* name, std::initializer_list<std::pair<const char*, Value>> known) {
  const std::string found = string_field(object, name);
  for (const auto& [text, value] : known) {
    if (found == text) return value;
  }
  throw wrong(name, found);
}

std::vector<int> ints(const Napi::Object& object, const char* name) {
  const Napi::Array array = array_field(object, name);
  std::vector<int> out;
  for (uint32_t i = 0; i < array.Length(); i++) {
    const Napi::Value item = array[i];
    const double value = item.IsNumber() ? item.As<Napi::Number>().DoubleValue() : 0.5;
    if (!(value >= INT32_MIN && value <= INT32_MAX) || value != std::floor(value)) {
      throw wrong_type(name, "an array of integers");
    }
    out.push_back(static_cast<int>(value));
  }
  return out;
}

std::vector<double> numbers_or_none(const Napi::Object& object, const char* name) {
  std::vector<double> out;
  if (!has(object, name)) return out;
  const Napi::Array array = array_field(object, name);
  for (uint32_t i = 0; i < array.Length(); i++) {
    const Napi::Value item = array[i];
    if (!item.IsNumber()) throw wrong_type(name, "an array of numbers");
    out.push_back(item.As<Napi::Number>().DoubleValue());
  }
  return out;
}

RopeSpec rope_spec(const Napi::Object& object) {
  RopeSpec rope;
  rope.head_dim = int_field(object, "headDim");
  rope.rotary = int_field(object, "rotary");
  rope.theta = number_field(object, "theta");
  rope.scaling = one_of<RopeScaling>(object, "scaling",
                                     {{"none", RopeScaling::none},
                                      {"linear", RopeScaling::linear},
                                      {"dynamic", RopeScaling::dynamic},
                                      {"llama3", RopeScaling::llama3},
                                      {"yarn", RopeScaling::yarn}});
  rope.factor = number_field(object, "factor");
  rope.low_frequency_factor = number_field(object, "lowFrequencyFactor");
  rope.high_frequency_factor = number_field(object, "highFrequencyFactor");
  rope.original_max_position = int_field(object, "originalMaxPosition");
  rope.attention_factor = number_field(object, "attentionFactor");
  rope.beta_fast = number_field(object, "betaFast");
  rope.beta_slow = number_field(object, "betaSlow");
  rope.truncate = bool_field(object, "truncate");
  rope.factors = numbers_or_none(object, "factors");
  rope.long_factors = numbers_or_none(object, "longFactors");
  rope.span = int_or(object, "span", 0);
  return rope;
}

Activation activation(const Napi::Object& object) {
  return one_of<Activation>(object, "activation",
                            {{"silu", Activation::silu},
                             {"gelu", Activation::gelu},
                             {"geluTanh", Activation::gelu_tanh},
                             {"clampedSwiglu", Activation::clamped_swiglu},
                             {"sigmoid", Activation::sigmoid}});
}

StatePlace state_place(const Napi::Object& o) {
  return {int_field(o, "kvClass"), int_field(o, "kvLayer"), int_field(o, "stateBegin")};
}

Op read_op(const Napi::Object& o) {
  const std::string kind = string_field(o, "op");
  if (kind == "norm") {
    NormOp op;
    op.in = int_field(o, "in");
    op.out = int_field(o, "out");
    op.begin = int_or(o, "begin", 0);
    op.width = int_field(o, "width");
    op.groups = int_or(o, "groups", 1);
    op.weight = int_or(o, "weight", kNone);
    op.bias = int_or(o, "bias", kNone);
    op.epsilon = number_field(o, "epsilon");
    op.mean = bool_or(o, "mean", false);
    op.add = bool_or(o, "add", false);
    return op;
  }
  if (kind == "scale") {
    ScaleOp op;
    op.value = int_field(o, "value");
    op.begin = int_or(o, "begin", 0);
    op.width = int_field(o, "width");
    op.factor = static_cast<float>(number_or(o, "factor", 1));
    op.weight = int_or(o, "weight", kNone);
    op.cap = static_cast<float>(number_or(o, "cap", 0));
    op.growth = number_or(o, "growth", 0);
    op.period = int_or(o, "period", 0);
    return op;
  }
  if (kind == "add") {
    return AddOp{int_field(o, "in"), int_field(o, "out"), static_cast<float>(number_or(o, "scale", 1))};
  }
  if (kind == "linear") {
    return LinearOp{int_field(o, "in"), int_field(o, "out"), int_field(o, "linear"), bool_or(o, "add", false)};
  }
  if (kind == "glu") return GluOp{int_field(o, "in"), int_field(o, "out"), int_field(o, "linear"), activation(o)};
  if (kind == "gate") {
    return GateOp{int_field(o, "in"), int_field(o, "by"),      int_field(o, "begin"),      int_field(o, "out"),
                  activation(o),      int_or(o, "inBegin", 0), bool_or(o, "scalar", false)};
  }
  if (kind == "gather") {
    return GatherOp{int_field(o, "table"), int_field(o, "out"), static_cast<float>(number_or(o, "scale", 1))};
  }
  if (kind == "route") {
    RouteOp op;
    op.in = int_field(o, "in");
    op.out = int_field(o, "out");
    op.experts = int_field(o, "experts");
    op.top_k = int_field(o, "topK");
    op.score = one_of<Score>(o, "score", {{"softmax", Score::softmax}, {"sigmoid", Score::sigmoid}});
    op.select_bias = int_or(o, "selectBias", kNone);
    op.groups = int_or(o, "groups", 1);
    op.top_groups = int_or(o, "topGroups", 1);
    op.group_best = int_or(o, "groupBest", 2);
    op.renormalise = bool_or(o, "renormalise", false);
    op.scale = static_cast<float>(number_or(o, "scale", 1));
    return op;
  }
  if (kind == "experts") {
    ExpertsOp op;
    op.in = int_field(o, "in");
    op.routes = int_field(o, "routes");
    op.out = int_field(o, "out");
    op.linear = int_field(o, "linear");
    op.experts = int_field(o, "experts");
    op.activation = activation(o);
    op.alpha = static_cast<float>(number_or(o, "alpha", 1));
    op.limit = static_cast<float>(number_or(o, "limit", 0));
    return op;
  }
  if (kind == "latent") {
    LatentOp op;
    op.q = int_field(o, "q");
    op.latent = int_field(o, "latent");
    op.out = int_field(o, "out");
    op.linear = int_field(o, "linear");
    op.heads = int_field(o, "heads");
    op.rank = int_field(o, "rank");
    op.nope = int_field(o, "nope");
    op.rotary = int_field(o, "rotary");
    op.value_dim = int_field(o, "valueDim");
    op.kv_class = int_field(o, "kvClass");
    op.kv_layer = int_field(o, "kvLayer");
    op.rope = int_field(o, "rope");
    op.scale = static_cast<float>(number_or(o, "scale", 0));
    op.interleaved = bool_or(o, "interleaved", false);
    return op;
  }
  if (kind == "conv") {
    ConvOp op;
    op.in = int_field(o, "in");
    op.out = int_field(o, "out");
    op.begin = int_or(o, "begin", 0);
    op.channels = int_field(o, "channels");
    op.taps = int_field(o, "taps");
    op.weight = int_field(o, "weight");
    op.state = state_place(o);
    return op;
  }
  if (kind == "delta") {
    DeltaOp op;
    op.in = int_field(o, "in");
    op.gates = int_field(o, "gates");
    op.out = int_field(o, "out");
    op.key_heads = int_field(o, "keyHeads");
    op.value_heads = int_field(o, "valueHeads");
    op.key_dim = int_field(o, "keyDim");
    op.value_dim = int_field(o, "valueDim");
    op.rate = int_field(o, "rate");
    op.bias = int_field(o, "bias");
    op.in_turn = bool_or(o, "inTurn", false);
    op.state = state_place(o);
    return op;
  }
  if (kind != "attend") throw wrong("operation", kind);
  AttendOp op;
  op.qkv = int_field(o, "qkv");
  op.out = int_field(o, "out");
  op.heads = int_field(o, "heads");
  op.kv_heads = int_field(o, "kvHeads");
  op.head_dim = int_field(o, "headDim");
  op.kv_class = int_field(o, "kvClass");
  op.kv_layer = int_field(o, "kvLayer");
  op.rope = int_field(o, "rope");
  op.scale = static_cast<float>(number_or(o, "scale", 0));
  op.cap = static_cast<float>(number_or(o, "cap", 0));
  op.sinks = int_or(o, "sinks", kNone);
  op.reads_only = bool_or(o, "readsOnly", false);
  return op;
}

std::vector<Op> ops(const Napi::Object& object, const char* name) {
  std::vector<Op> out;
  for_objects(object, name, [&](const Napi::Object& op) { out.push_back(read_op(op)); });
  return out;
}

HeadOrder head_order(const Napi::Object& object) {
  if (!has(object, "heads")) return {};
  const Napi::Object heads = object_field(object, "heads");
  return {int_field(heads, "headDim"), int_field(heads, "rotary"), bool_field(heads, "interleaved")};
}

LinearSource linear_source(const Napi::Object& object) {
  LinearSource source;
  source.format = one_of<LinearFormat>(object, "format",
                                       {{"plain", LinearFormat::plain},
                                        {"gptq", LinearFormat::gptq},
                                        {"awq", LinearFormat::awq},
                                        {"compressed-tensors", LinearFormat::compressed_tensors},
                                        {"fp8", LinearFormat::fp8},
                                        {"nvfp4", LinearFormat::nvfp4},
                                        {"mxfp4", LinearFormat::mxfp4}});
  source.weight = string_field(object, "weight");
  source.zeros = string_field(object, "zeros");
  source.scales = string_field(object, "scales");
  source.g_idx = string_field(object, "gIdx");
  source.shape = string_field(object, "shape");
  source.bias = string_field(object, "bias");
  source.bits = int_field(object, "bits");
  source.group_size = int_field(object, "groupSize");
  source.symmetric = bool_field(object, "symmetric");
  source.zeros_minus_one = bool_field(object, "zerosMinusOne");
  source.block_rows = int_field(object, "blockRows");
  source.global_scale = string_field(object, "globalScale");
  source.global_divides = bool_field(object, "globalDivides");
  source.make_bits = int_field(object, "makeBits");
  source.make_group = int_field(object, "makeGroup");
  source.transposed = bool_or(object, "transposed", false);
  if (has(object, "keys")) source.keys = string_field(object, "keys");
  source.heads = head_order(object);
  if (has(object, "rows")) {
    const Napi::Object rows = object_field(object, "rows");
    source.rows = {int_field(rows, "begin"), int_field(rows, "of"), int_or(rows, "step", 1), int_or(rows, "run", 1)};
  }
  return source;
}

}  // namespace

Program program(const Napi::Object& object) {
  Program out;
  out.vocab = int_field(object, "vocab");
  out.max_position = int_field(object, "maxPosition");
  out.values = ints(object, "values");
  out.logits = int_field(object, "logits");
  out.tables = ints(object, "tables");
  out.embed = ops(object, "embed");
  for_objects(object, "units", [&](const Napi::Object& item) {
    ProgramUnit unit;
    unit.name = string_field(item, "name");
    unit.layer = int_field(item, "layer");
    unit.head = bool_field(item, "head");
    unit.ops = ops(item, "ops");
    unit.vectors = ints(item, "vectors");
    for_objects(item, "linears", [&](const Napi::Object& linear) {
      unit.linears.push_back({int_field(linear, "k"), ints(linear, "parts"), bool_or(linear, "glu", false)});
    });
    out.units.push_back(std::move(unit));
  });
  for_objects(object, "kv", [&](const Napi::Object& kv) {
    out.kv.push_back({int_field(kv, "layers"), int_field(kv, "window"), int_field(kv, "kvHeads"),
                      int_field(kv, "headDim"), int_or(kv, "state", 0), bool_or(kv, "latent", false)});
  });
  for_objects(object, "ropes", [&](const Napi::Object& rope) { out.ropes.push_back(rope_spec(rope)); });
  return out;
}

ModelSource model_source(const Napi::Object& object) {
  ModelSource source;
  source.program = program(object_field(object, "program"));
  for_objects(object, "units", [&](const Napi::Object& item) {
    UnitSource unit;
    for_objects(item, "vectors", [&](const Napi::Object& vector) {
      VectorSource one{string_field(vector, "tensor"), bool_or(vector, "plusOne", false), head_order(vector)};
      one.exponential = bool_or(vector, "exponential", false);
      one.negated = bool_or(vector, "negated", false);
      one.columns = int_or(vector, "columns", 0);
      unit.vectors.push_back(std::move(one));
    });
    const Napi::Array linears = array_field(item, "linears");
    for (uint32_t i = 0; i < linears.Length(); i++) {
      const Napi::Value parts = linears[i];
      if (!parts.IsArray()) throw wrong_type("linears", "an array of arrays");
      std::vector<LinearSource>& to = unit.linears.emplace_back();
      for (uint32_t j = 0; j < parts.As<Napi::Array>().Length(); j++) {
        const Napi::Value part = parts.As<Napi::Array>()[j];
        if (!part.IsObject()) throw wrong_type("linears", "an array of arrays of objects");
        to.push_back(linear_source(part.As<Napi::Object>()));
      }
    }
    source.units.push_back(std::move(unit));
  });
  source.tables = string_array(field(object, "tables"), "tables");
  return source;
}

}  // namespace millrace
