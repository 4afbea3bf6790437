#pragma once
// Which experts the CPU answers in a device's place.
#include "model/experts_layout.h"

namespace millrace {

// Of integers throughout: then with the device's bits.
bool cpu_answers(const ExpertsLayout& experts);

}  // namespace millrace
