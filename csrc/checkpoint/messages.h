#pragma once
// Text for error messages about checkpoints. Names come from files, so they are shown escaped and cut.
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "core/error.h"

namespace millrace {

inline constexpr const char* kInvalidRemedy = "fetch the file again, or report it to whoever published the checkpoint";
inline constexpr const char* kUnsupportedRemedy = "use a checkpoint in a supported format (see README)";

// Control characters and bytes that are not ASCII become \xNN; more than `longest` bytes are cut in the middle.
std::string printable(std::string_view text, size_t longest = 160);

// The last component of a path, printable.
std::string base_name(std::string_view path);

// "[4096, 14336]"
std::string shape_text(std::span<const int64_t> shape);

[[noreturn]] void throw_invalid(const std::string& message);
[[noreturn]] void throw_unsupported(const std::string& message);

}  // namespace millrace
