// The module's entry: what lib/binding.ts types as NativeAddon.
#include <napi.h>

#include "addon/checkpoint.h"
#include "addon/constraint.h"
#include "addon/environment.h"
#include "addon/lab.h"
#include "addon/model.h"
#include "addon/probe.h"

namespace {

Napi::Object initialise(Napi::Env env, Napi::Object exports) {
  env.SetInstanceData<millrace::Environment>(new millrace::Environment(env));
  exports.Set("version", MILLRACE_VERSION);
  millrace::register_checkpoint(env, exports);
  millrace::register_constraint(env, exports);
  millrace::register_lab(env, exports);
  millrace::register_model(env, exports);
  millrace::register_probe(env, exports);
  return exports;
}

}  // namespace

NODE_API_MODULE(millrace, initialise)
