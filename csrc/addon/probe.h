#pragma once
#include <napi.h>

#include "cuda/probe.h"

namespace millrace {

// probeCpu(), probeGpus(), measureDramBandwidth(threads) and measureLinkBandwidth(gpu), as lib/binding.ts types them.
void register_probe(Napi::Env env, Napi::Object exports);

// What probeGpus() returns.
Napi::Object gpus_to_js(Napi::Env env, const GpuProbe& probe);

}  // namespace millrace
