#include "stream/route_log.h"

#include <bit>
#include <cerrno>
#include <cstring>
#include <utility>

#include "core/error.h"

namespace millrace {

static_assert(std::endian::native == std::endian::little);

RouteLog::RouteLog(const std::string& path, const Mixtures& mixtures)
    : path_(path), file_(std::fopen(path.c_str(), "wb")), routed_(mixtures.routed()) {
  if (file_ == nullptr) {
    throw Error(code::kInvalidArgument, format("cannot write '%s': %s", path.c_str(), std::strerror(errno)),
                "give the path of a file that can be written");
  }
  const std::string head = format("{\"millraceRoutes\": 1, \"mixtures\": %d, \"experts\": %d, \"chosen\": %d}\n",
                                  mixtures.count, mixtures.experts, mixtures.chosen);
  if (std::fwrite(head.data(), 1, head.size(), file_) != head.size()) why_ = errno;
}

RouteLog::~RouteLog() {
  if (file_ != nullptr) std::fclose(file_);
}

void RouteLog::add(std::span<const int32_t> positions, std::span<const uint16_t> routes) {
  std::vector<char> record(8 + 2 * routed_);
  for (size_t row = 0; row < positions.size() && why_ == 0; row++) {
    std::memcpy(record.data(), &pass_, 4);
    std::memcpy(record.data() + 4, &positions[row], 4);
    std::memcpy(record.data() + 8, routes.data() + row * routed_, 2 * routed_);
    if (std::fwrite(record.data(), 1, record.size(), file_) != record.size()) why_ = errno;
  }
  pass_++;
}

void RouteLog::finish() {
  if (file_ == nullptr) return;
  if (std::fclose(std::exchange(file_, nullptr)) != 0 && why_ == 0) why_ = errno;
  if (why_ == 0) return;
  throw Error(code::kWriteFailed, format("the log of routes '%s' is not whole: %s", path_.c_str(), std::strerror(why_)),
              "make room, or write it elsewhere");
}

}  // namespace millrace
