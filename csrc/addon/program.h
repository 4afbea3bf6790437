#pragma once
// From JavaScript's description of a model to a program and the tensors it reads; here only types are checked, the rest
// by check() and plan_slabs().
#include <napi.h>

#include "checkpoint/repack.h"

namespace millrace {

Program program(const Napi::Object& object);
ModelSource model_source(const Napi::Object& object);

}  // namespace millrace
