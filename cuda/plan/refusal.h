#pragma once
// What a device cannot run of a model, told at load and by name.
#include <optional>
#include <span>
#include <string>

#include "cuda/plan/device.h"
#include "model/program.h"
#include "model/slab_layout.h"

namespace millrace::cuda {

// A sentence, where a launch of some unit has no plan or the device is older than any kernel; else nothing.
std::optional<std::string> refusal_of(const DeviceFacts& device);
std::optional<std::string> refusal_of(const DeviceFacts& device, const Program& program,
                                      std::span<const UnitLayout> units);

}  // namespace millrace::cuda
