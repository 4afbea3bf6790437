#pragma once
#include <napi.h>

namespace millrace {

// Adds readTensors, planSlabs and planSynthetic to the exports.
void register_checkpoint(Napi::Env env, Napi::Object exports);

}  // namespace millrace
