#pragma once
#include <napi.h>

namespace millrace {

// probeCpu(), probeGpus() and measureDramBandwidth(threads), as lib/binding.ts types them.
void register_probe(Napi::Env env, Napi::Object exports);

}  // namespace millrace
