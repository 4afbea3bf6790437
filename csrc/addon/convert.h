#pragma once
// From validated JavaScript values to the native types. TypeScript has checked ranges and names; here only types are,
// so that a caller who goes round it gets an error and not a crash.
#include <napi.h>

#include <string>
#include <vector>

#include "core/error.h"
#include "engine/request.h"
#include "stream/feeder.h"
#include "stream/synthetic.h"

namespace millrace {

Error wrong_type(const char* name, const char* expected);
Napi::Array array_field(const Napi::Object& object, const char* name);
Napi::Value field(const Napi::Object& object, const char* name);
double number_field(const Napi::Object& object, const char* name);
int int_field(const Napi::Object& object, const char* name);      // an integer in int32
size_t size_field(const Napi::Object& object, const char* name);  // an integer in [0, 2^53)
std::vector<size_t> sizes_field(const Napi::Object& object, const char* name);
std::vector<double> numbers_field(const Napi::Object& object, const char* name);
bool bool_field(const Napi::Object& object, const char* name);
Napi::Object object_field(const Napi::Object& object, const char* name);
std::string string_field(const Napi::Object& object, const char* name);
std::vector<int32_t> int32_array_field(const Napi::Object& object, const char* name);
std::vector<float> float32_array_field(const Napi::Object& object, const char* name);
std::vector<std::string> string_array(const Napi::Value& value, const char* name);

SyntheticOptions synthetic_options(const Napi::Object& object);
const char* name_of(Home home);
std::vector<Home> homes_field(const Napi::Object& object, const char* name);
RequestOptions request_options(const Napi::Object& object, int vocab);
// The options of sampling that request_options() reads, by JavaScript's names.
std::vector<const char*> sampling_option_names();

}  // namespace millrace
