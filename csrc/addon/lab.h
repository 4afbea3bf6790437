#pragma once
// `lab`: an object of the addon's exports with the table of operations, the layouts as data, and open().
#include <napi.h>

#include "backend/kernel_image.h"

namespace millrace {

// { operation, source, image }.
KernelImage kernel_image(const Napi::Object& object);

void register_lab(Napi::Env env, Napi::Object exports);

}  // namespace millrace
