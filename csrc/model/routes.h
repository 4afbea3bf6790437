#pragma once
// What the rows of passes choose of a program's mixtures, as logs have it and as it is replayed: of each row [mixtures,
// chosen] numbers of experts, the mixtures in the order of their units.
#include <cstddef>
#include <cstdint>
#include <vector>

#include "model/program.h"

namespace millrace {

struct Mixtures {
  std::vector<int> of_unit;                // [units]: its number, kNone
  int count = 0, experts = 0, chosen = 0;  // experts and chosen: of the largest
  size_t routed() const { return static_cast<size_t>(count) * static_cast<size_t>(chosen); }
};
Mixtures mixtures_of(const Program& program);

// Experts that rows choose in the place of those that their routers would: for benchmarks, whose routers are random,
// and for what was chosen elsewhere and is replayed. The row at position p of the sequence of number s takes the
// choices of entry (p + s * kStep) % entries.
struct DrawnRoutes {
  static constexpr int kStep = 7919;
  int entries = 0;
  std::vector<uint16_t> experts;  // [entries, mixtures, chosen]
};
// Throws INVALID_ARGUMENT unless there is an entry, each of as many experts as the program's rows choose, which exist
// and differ within a mixture.
void check_routes(const DrawnRoutes& routes, const Program& program);

}  // namespace millrace
