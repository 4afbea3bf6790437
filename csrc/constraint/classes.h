#pragma once
// Characters in 32 classes, of which a set is a word: what the tokens below a node of the vocabulary's tries are made
// of, and of what any text may follow in a state of a constraint. Where the one lies within the other all those tokens
// may come, and none of them need be looked at. lib/constraint/classes.ts has the same table.
#include <array>
#include <cstdint>
#include <string_view>

namespace millrace::constraint {

using Classes = uint32_t;

// Each character for itself, from bit 5 on.
inline constexpr std::string_view kSingles = "_-. /:,@+=#&?%'()*!$~;";
inline constexpr Classes kOtherAscii = 1u << 27;   // what else is printed
inline constexpr Classes kControls = 1u << 28;     // below a space
inline constexpr Classes kJsonEnds = 1u << 29;     // a quote, a backslash
inline constexpr Classes kBeyondAscii = 1u << 30;  // any code point from 0x7f on, but the line ends 0x2028 and 0x2029
inline constexpr Classes kBroken = 1u << 31;       // bytes of no whole character, and those line ends
// What JSON texts have as it is, and no line ends at.
inline constexpr Classes kPlain = ~(kControls | kJsonEnds | kBroken);

// Of a byte below 0x80.
constexpr Classes class_of_ascii(uint8_t byte) {
  if (byte < 0x20) return kControls;
  if (byte == '"' || byte == '\\') return kJsonEnds;
  if (byte == 0x7f) return kBeyondAscii;
  if (byte >= '0' && byte <= '9') return 1u << 0;
  if (byte >= 'a' && byte <= 'z') return byte <= 'f' ? 1u << 1 : 1u << 2;
  if (byte >= 'A' && byte <= 'Z') return byte <= 'F' ? 1u << 3 : 1u << 4;
  const size_t single = kSingles.find(static_cast<char>(byte));
  return single == std::string_view::npos ? kOtherAscii : 1u << (5 + single);
}

}  // namespace millrace::constraint
