#include "addon/convert.h"

#include <cmath>
#include <cstring>

#include "addon/constraint.h"
#include "core/error.h"

namespace millrace {

Error wrong_type(const char* name, const char* expected) {
  return Error(code::kInvalidArgument, format("native call: expected %s for %s", expected, name),
               "call through the package's own API");
}

Napi::Array array_field(const Napi::Object& object, const char* name) {
  const Napi::Value value = field(object, name);
  if (!value.IsArray()) throw wrong_type(name, "an array");
  return value.As<Napi::Array>();
}

Napi::Value field(const Napi::Object& object, const char* name) {
  return object.Get(name);
}

Napi::Object object_field(const Napi::Object& object, const char* name) {
  const Napi::Value value = field(object, name);
  if (!value.IsObject()) throw wrong_type(name, "an object");
  return value.As<Napi::Object>();
}

double number_field(const Napi::Object& object, const char* name) {
  const Napi::Value value = field(object, name);
  if (!value.IsNumber()) throw wrong_type(name, "a number");
  return value.As<Napi::Number>().DoubleValue();
}

int int_field(const Napi::Object& object, const char* name) {
  const double value = number_field(object, name);
  if (!(value >= INT32_MIN && value <= INT32_MAX) || value != std::floor(value)) throw wrong_type(name, "an integer");
  return static_cast<int>(value);
}

namespace {

size_t size_of(double value, const char* name) {
  if (!(value >= 0 && value < 0x1p53) || value != std::floor(value)) throw wrong_type(name, "a size");
  return static_cast<size_t>(value);
}

}  // namespace

size_t size_field(const Napi::Object& object, const char* name) {
  return size_of(number_field(object, name), name);
}

std::vector<size_t> sizes_field(const Napi::Object& object, const char* name) {
  const Napi::Array array = array_field(object, name);
  std::vector<size_t> sizes;
  for (uint32_t i = 0; i < array.Length(); i++) {
    const Napi::Value item = array[i];
    if (!item.IsNumber()) throw wrong_type(name, "an array of sizes");
    sizes.push_back(size_of(item.As<Napi::Number>().DoubleValue(), name));
  }
  return sizes;
}

std::vector<double> numbers_field(const Napi::Object& object, const char* name) {
  const Napi::Array array = array_field(object, name);
  std::vector<double> numbers;
  for (uint32_t i = 0; i < array.Length(); i++) {
    const Napi::Value item = array[i];
    if (!item.IsNumber()) throw wrong_type(name, "an array of numbers");
    numbers.push_back(item.As<Napi::Number>().DoubleValue());
  }
  return numbers;
}

bool bool_field(const Napi::Object& object, const char* name) {
  const Napi::Value value = field(object, name);
  if (!value.IsBoolean()) throw wrong_type(name, "a boolean");
  return value.As<Napi::Boolean>().Value();
}

std::string string_field(const Napi::Object& object, const char* name) {
  const Napi::Value value = field(object, name);
  if (!value.IsString()) throw wrong_type(name, "a string");
  return value.As<Napi::String>().Utf8Value();
}

std::vector<int32_t> int32_array_field(const Napi::Object& object, const char* name) {
  const Napi::Value value = field(object, name);
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_int32_array) {
    throw wrong_type(name, "an Int32Array");
  }
  const auto array = value.As<Napi::Int32Array>();
  return {array.Data(), array.Data() + array.ElementLength()};
}

std::vector<float> float32_array_field(const Napi::Object& object, const char* name) {
  const Napi::Value value = field(object, name);
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_float32_array) {
    throw wrong_type(name, "a Float32Array");
  }
  const auto array = value.As<Napi::Float32Array>();
  return {array.Data(), array.Data() + array.ElementLength()};
}

std::vector<std::string> string_array(const Napi::Value& value, const char* name) {
  if (!value.IsArray()) throw wrong_type(name, "an array of strings");
  const auto array = value.As<Napi::Array>();
  std::vector<std::string> out;
  for (uint32_t i = 0; i < array.Length(); i++) {
    const Napi::Value item = array[i];
    if (!item.IsString()) throw wrong_type(name, "an array of strings");
    out.push_back(item.As<Napi::String>().Utf8Value());
  }
  return out;
}

SyntheticOptions synthetic_options(const Napi::Object& object) {
  SyntheticOptions options;
  const auto type = [&](const char* name) {
    const std::string value = string_field(object, name);
    for (int known = 0; known < kWeightTypes; known++) {
      if (value == name_of(static_cast<WeightType>(known))) return static_cast<WeightType>(known);
    }
    throw wrong_type(name, "the name of a code of weights");
  };
  if (string_field(object, "layers") == "q4_k_m") {
    options.layers = WeightType::q4_k;
    options.more = WeightType::q6_k;
  } else {
    options.layers = type("layers");
  }
  options.group = int_field(object, "group");
  options.zeros = bool_field(object, "zeros");
  options.head = type("head");
  options.embedding = type("embedding");
  options.seed = size_field(object, "seed");
  return options;
}

const char* name_of(Home home) {
  switch (home) {
    case Home::resident:
      return "resident";
    case Home::streamed:
      return "streamed";
    case Home::cpu:
      return "cpu";
    case Home::shared:
      return "shared";
    case Home::demand:
      return "demand";
    case Home::elsewhere:
      break;
  }
  return "elsewhere";
}

std::vector<Home> homes_field(const Napi::Object& object, const char* name) {
  std::vector<Home> homes;
  for (const std::string& home : string_array(field(object, name), name)) {
    if (home == "resident") {
      homes.push_back(Home::resident);
    } else if (home == "streamed") {
      homes.push_back(Home::streamed);
    } else if (home == "cpu") {
      homes.push_back(Home::cpu);
    } else if (home == "shared") {
      homes.push_back(Home::shared);
    } else if (home == "demand") {
      homes.push_back(Home::demand);
    } else {
      throw wrong_type(name, "'resident', 'streamed', 'cpu', 'shared' or 'demand'");
    }
  }
  return homes;
}

namespace {

void check_tokens(const std::vector<int32_t>& tokens, int vocab) {
  for (const int32_t token : tokens) {
    if (token >= 0 && token < vocab) continue;
    throw Error(code::kInvalidArgument, format("token id %d is outside the vocabulary of %d", token, vocab),
                "encode the text with the model's own tokenizer");
  }
}

}  // namespace

namespace {

void read(const Napi::Object& object, const char* name, float& value) {
  value = static_cast<float>(number_field(object, name));
}
void read(const Napi::Object& object, const char* name, int32_t& value) {
  value = int_field(object, name);
}

}  // namespace

namespace {

RequestKind request_kind(const std::string& name) {
  if (name == "score") return RequestKind::score;
  return name == "embed" ? RequestKind::embed : RequestKind::generate;
}

}  // namespace

std::vector<const char*> sampling_option_names() {
#define MILLRACE_NAME_OF_FIELD(type, field, name, fallback) name,
  return {MILLRACE_SAMPLING_OPTIONS(MILLRACE_NAME_OF_FIELD)};
#undef MILLRACE_NAME_OF_FIELD
}

RequestOptions request_options(const Napi::Object& object, int vocab) {
  RequestOptions options;
  options.kind = request_kind(string_field(object, "kind"));
  options.tokens = int32_array_field(object, "tokens");
  check_tokens(options.tokens, vocab);
  options.priority = int_field(object, "priority");
  options.queue_timeout_ms = number_field(object, "queueTimeoutMs");
  options.deadline_ms = number_field(object, "deadlineMs");
  options.age_ms = number_field(object, "ageMs");
  if (options.kind == RequestKind::score) {
    options.logits = bool_field(object, "logits");
    return options;
  }
  if (options.kind == RequestKind::embed) {
    options.pooling = string_field(object, "pooling") == "last" ? Pooling::last : Pooling::mean;
    return options;
  }
  options.max_tokens = int_field(object, "maxTokens");
  options.min_tokens = int_field(object, "minTokens");
#define MILLRACE_READ_FIELD(type, field, name, fallback) read(object, name, options.field);
  MILLRACE_SAMPLING_OPTIONS(MILLRACE_READ_FIELD)
#undef MILLRACE_READ_FIELD
  const std::vector<int32_t> bias_tokens = int32_array_field(object, "biasTokens");
  const std::vector<float> bias_values = float32_array_field(object, "biasValues");
  if (bias_tokens.size() != bias_values.size()) throw wrong_type("biasValues", "one value a token");
  check_tokens(bias_tokens, vocab);
  for (size_t i = 0; i < bias_tokens.size(); i++) options.logit_bias.emplace_back(bias_tokens[i], bias_values[i]);
  options.top_logprobs = int_field(object, "topLogprobs");
  if (options.top_logprobs < 0 || options.top_logprobs > vocab) throw wrong_type("topLogprobs", "a number of tokens");
  options.seed = size_field(object, "seed");
  options.stop_tokens = int32_array_field(object, "stopTokens");
  options.logprobs = bool_field(object, "logprobs");
  options.constraint = constraint_of(field(object, "constraint"));
  const std::string method = string_field(object, "draftMethod");
  options.drafts = method == "auto"    ? DraftMethod::automatic
                   : method == "ngram" ? DraftMethod::ngram
                   : method == "draft" ? DraftMethod::model
                                       : DraftMethod::off;
  options.draft_tokens = int_field(object, "draftTokens");
  options.foreseen = int32_array_field(object, "foreseen");
  check_tokens(options.foreseen, vocab);
  return options;
}

}  // namespace millrace
