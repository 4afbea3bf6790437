#pragma once
// The one error type of the native side. `code` is stable and listed in lib/errors.ts; the sentence says what is
// wrong, the remedy what to do about it.
#include <cstdarg>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <utility>

namespace millrace {

namespace code {
inline constexpr const char* kInvalidArgument = "INVALID_ARGUMENT";
inline constexpr const char* kCheckpointNotFound = "CHECKPOINT_NOT_FOUND";
inline constexpr const char* kCheckpointInvalid = "CHECKPOINT_INVALID";
inline constexpr const char* kCheckpointUnsupported = "CHECKPOINT_UNSUPPORTED";
inline constexpr const char* kOutOfMemory = "OUT_OF_MEMORY";
inline constexpr const char* kDeviceUnavailable = "DEVICE_UNAVAILABLE";
inline constexpr const char* kGpuLost = "GPU_LOST";
inline constexpr const char* kContextOverflow = "CONTEXT_OVERFLOW";
inline constexpr const char* kQueueFull = "QUEUE_FULL";
inline constexpr const char* kQueueTimeout = "QUEUE_TIMEOUT";
inline constexpr const char* kDeadlineExceeded = "DEADLINE_EXCEEDED";
inline constexpr const char* kModelClosed = "MODEL_CLOSED";
inline constexpr const char* kAborted = "ABORTED";
inline constexpr const char* kReadFailed = "READ_FAILED";
inline constexpr const char* kWriteFailed = "WRITE_FAILED";
inline constexpr const char* kConstraintInvalid = "CONSTRAINT_INVALID";
inline constexpr const char* kConstraintTooLarge = "CONSTRAINT_TOO_LARGE";
inline constexpr const char* kInternal = "INTERNAL";
}  // namespace code

class Error : public std::runtime_error {
 public:
  Error(const char* code, std::string message, std::string remedy)
      : std::runtime_error(std::move(message)), code_(code), remedy_(std::move(remedy)) {}
  const char* code() const { return code_; }
  const std::string& remedy() const { return remedy_; }
  // Of QUEUE_FULL: milliseconds after which to try again; 0: not told.
  double retry_after_ms = 0;

 private:
  const char* code_;
  std::string remedy_;
};

// The exception that is being handled, as what is told of it: an Error is itself, want of memory or of threads is
// OUT_OF_MEMORY, anything else a fault of ours. Within a catch block alone.
Error current_error();

#if defined(__GNUC__)
__attribute__((format(printf, 1, 2)))
#endif
inline std::string
format(const char* pattern, ...) {
  va_list args;
  va_start(args, pattern);
  va_list measure;
  va_copy(measure, args);
  const int n = std::vsnprintf(nullptr, 0, pattern, measure);
  va_end(measure);
  std::string out(n > 0 ? static_cast<size_t>(n) : 0, '\0');
  if (n > 0) std::vsnprintf(out.data(), out.size() + 1, pattern, args);
  va_end(args);
  return out;
}

}  // namespace millrace
