// The module's entry: what lib/binding.ts types as NativeAddon.
#include <napi.h>

#include "addon/checkpoint.h"
#include "addon/environment.h"
#include "addon/model.h"
#include "addon/probe.h"

namespace millrace {
namespace {

Napi::Object initialise(Napi::Env env, Napi::Object exports) {
  env.SetInstanceData<Environment>(new Environment(env));
  exports.Set("version", MILLRACE_VERSION);
  register_checkpoint(env, exports);
  register_model(env, exports);
  register_probe(env, exports);
  return exports;
}

}  // namespace
}  // namespace millrace

NODE_API_MODULE(millrace, millrace::initialise)
