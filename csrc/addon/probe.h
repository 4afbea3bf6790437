#pragma once
#include <napi.h>

namespace millrace {

// probeCpu(), probeGpus(), measureDramBandwidth(threads) and measureLinkBandwidth(gpu), as lib/binding.ts types them.
void register_probe(Napi::Env env, Napi::Object exports);

}  // namespace millrace
