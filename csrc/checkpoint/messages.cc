#include "checkpoint/messages.h"

namespace millrace {

std::string printable(std::string_view text, size_t longest) {
  const size_t keep = longest / 2;
  const bool cut = text.size() > longest;
  std::string out;
  for (size_t i = 0; i < text.size(); i++) {
    if (cut && i == keep) {
      out += "...";
      i = text.size() - keep;
    }
    const unsigned char c = static_cast<unsigned char>(text[i]);
    if (c >= 0x20 && c < 0x7f) {
      out += static_cast<char>(c);
    } else {
      out += format("\\x%02x", c);
    }
  }
  return out;
}

std::string base_name(std::string_view path) {
  const size_t slash = path.rfind('/');
  return printable(slash == std::string_view::npos ? path : path.substr(slash + 1));
}

std::string shape_text(std::span<const int64_t> shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size(); i++) {
    if (i > 0) out += ", ";
    out += std::to_string(shape[i]);
  }
  return out + "]";
}

void throw_invalid(const std::string& message) {
  throw Error(code::kCheckpointInvalid, message, kInvalidRemedy);
}

void throw_unsupported(const std::string& message) {
  throw Error(code::kCheckpointUnsupported, message, kUnsupportedRemedy);
}

}  // namespace millrace
