#pragma once
// What rows of passes chose of a model's mixtures, as a file: a line of JSON, {"millraceRoutes": 1, "mixtures",
// "experts", "chosen"}, then a record a row, in little-endian integers: the pass (32 bits), the row's position (32
// bits), and [mixtures, chosen] numbers of experts (16 bits each). The model's worker alone uses it.
#include <cstdint>
#include <cstdio>
#include <span>
#include <string>
#include <vector>

#include "model/routes.h"

namespace millrace {

class RouteLog {
 public:
  // Throws INVALID_ARGUMENT if the file cannot be written.
  RouteLog(const std::string& path, const Mixtures& mixtures);
  ~RouteLog();
  RouteLog(const RouteLog&) = delete;
  RouteLog& operator=(const RouteLog&) = delete;

  // Rows of a pass. routes: [positions, mixtures, chosen].
  void add(std::span<const int32_t> positions, std::span<const uint16_t> routes);
  // Writes the rest and closes the file. Throws WRITE_FAILED where it has not all of it.
  void finish();

 private:
  std::string path_;
  std::FILE* file_;
  size_t routed_;
  uint32_t pass_ = 0;
  int why_ = 0;  // errno of the first write that failed
};

}  // namespace millrace
