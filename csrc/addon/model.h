#pragma once
#include <napi.h>

namespace millrace {

// Adds load, cancelLoad, attach, ref and unref to the exports.
void register_model(Napi::Env env, Napi::Object exports);

}  // namespace millrace
