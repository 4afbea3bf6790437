#pragma once
// Adjustments of one request, ascending tokens each once: what a slot's table holds, on the host.
#include <algorithm>
#include <span>
#include <vector>

#include "backend/backend.h"

namespace millrace {

// That of the token among those from `begin` on: made of `otherwise` if there is none.
inline LogitAdjustment& adjustment_of(std::vector<LogitAdjustment>& all, size_t begin,
                                      const LogitAdjustment& otherwise) {
  auto at = std::lower_bound(all.begin() + static_cast<ptrdiff_t>(begin), all.end(), otherwise.token,
                             [](const LogitAdjustment& a, int32_t token) { return a.token < token; });
  if (at == all.end() || at->token != otherwise.token) at = all.insert(at, otherwise);
  return *at;
}

// That of the token, or one that changes nothing.
inline LogitAdjustment found_adjustment(std::span<const LogitAdjustment> all, int32_t token) {
  const auto at = std::lower_bound(all.begin(), all.end(), token,
                                   [](const LogitAdjustment& a, int32_t value) { return a.token < value; });
  return at != all.end() && at->token == token ? *at : LogitAdjustment{token};
}

// The token has been generated once more.
inline void count_generated(LogitAdjustment& adjustment) {
  adjustment.seen = 1;
  adjustment.generated++;
}

// A step's update, in a table of the host.
inline void update_table(std::vector<LogitAdjustment>& table, bool whole, std::span<const LogitAdjustment> entries) {
  if (whole) {
    table.assign(entries.begin(), entries.end());
  } else {
    for (const LogitAdjustment& entry : entries) adjustment_of(table, 0, entry) = entry;
  }
}

}  // namespace millrace
