#include "model/routes.h"

#include <algorithm>
#include <span>

#include "core/error.h"
#include "model/experts_layout.h"

namespace millrace {

Mixtures mixtures_of(const Program& program) {
  Mixtures out;
  for (const ProgramUnit& unit : program.units) {
    const ExpertsOp* op = experts_of(unit);
    out.of_unit.push_back(op == nullptr ? kNone : out.count++);
    if (op == nullptr) continue;
    out.experts = std::max(out.experts, op->experts);
    out.chosen = std::max(out.chosen, program.values[op->routes] / 2);
  }
  return out;
}

void check_routes(const DrawnRoutes& routes, const Program& program) {
  const Mixtures mixtures = mixtures_of(program);
  const auto refuse = [](const std::string& what) {
    throw Error(code::kInvalidArgument, "routes that are to be replayed: " + what,
                "replay what traceRoutes() wrote of a model of this shape");
  };
  if (mixtures.count == 0) refuse("the model has no mixtures");
  if (routes.entries < 1 || routes.experts.size() != routes.entries * mixtures.routed()) {
    refuse(format("%zu choices are not %d times %zu", routes.experts.size(), routes.entries, mixtures.routed()));
  }
  std::vector<uint16_t> sorted;
  for (size_t entry = 0; entry < static_cast<size_t>(routes.entries); entry++) {
    for (size_t unit = 0; unit < program.units.size(); unit++) {
      if (mixtures.of_unit[unit] == kNone) continue;
      const ExpertsOp& op = *experts_of(program.units[unit]);
      const size_t at = entry * mixtures.routed() + static_cast<size_t>(mixtures.of_unit[unit]) * mixtures.chosen;
      const auto own = std::span(routes.experts).subspan(at, static_cast<size_t>(program.values[op.routes] / 2));
      sorted.assign(own.begin(), own.end());
      std::sort(sorted.begin(), sorted.end());
      if (sorted.back() < op.experts && std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end()) continue;
      refuse(format("entry %zu names experts of unit %zu that do not exist, or one twice", entry, unit));
    }
  }
}

}  // namespace millrace
