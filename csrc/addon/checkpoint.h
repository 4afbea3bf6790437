#pragma once
#include <napi.h>

namespace millrace {

// Adds readTensors and planSlabs to the exports.
void register_checkpoint(Napi::Env env, Napi::Object exports);

}  // namespace millrace
