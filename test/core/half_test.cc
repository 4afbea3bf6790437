#include "core/half.h"

#include <limits>

#include "check.h"

using namespace millrace;

namespace {

// The definition of IEEE binary16, in double precision.
double half_value(uint16_t h) {
  const double sign = (h & 0x8000) ? -1.0 : 1.0;
  const int exponent = (h >> 10) & 31;
  const int mantissa = h & 1023;
  if (exponent == 31) return mantissa ? std::numeric_limits<double>::quiet_NaN() : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(mantissa, -24);
  return sign * std::ldexp(1024 + mantissa, exponent - 25);
}

}  // namespace

TEST(every_half_has_its_value) {
  for (uint32_t h = 0; h < 0x10000; ++h) {
    const double expected = half_value(static_cast<uint16_t>(h));
    const float got = half_to_float(static_cast<uint16_t>(h));
    if (std::isnan(expected)) {
      CHECK(std::isnan(got));
    } else {
      CHECK_EQ(static_cast<double>(got), expected);
      CHECK_EQ(std::signbit(got), (h & 0x8000) != 0);
    }
  }
}

TEST(every_half_survives_the_round_trip) {
  for (uint32_t h = 0; h < 0x10000; ++h) {
    const bool nan = (h & 0x7c00) == 0x7c00 && (h & 0x3ff) != 0;
    if (!nan) CHECK_EQ(float_to_half(half_to_float(static_cast<uint16_t>(h))), h);
  }
  CHECK(std::isnan(half_to_float(float_to_half(NAN))));
}

TEST(floats_between_two_halves_round_to_the_nearer_and_ties_to_even) {
  for (uint32_t h = 0; h < 0x7bff; ++h) {
    const double low = half_value(static_cast<uint16_t>(h)), high = half_value(static_cast<uint16_t>(h + 1));
    const float middle = static_cast<float>((low + high) / 2);  // exact: a half has 11 bits, a float 24
    CHECK_EQ(float_to_half(middle), (h & 1) ? h + 1 : h);
    CHECK_EQ(float_to_half(std::nextafterf(middle, 0)), h);
    CHECK_EQ(float_to_half(std::nextafterf(middle, INFINITY)), h + 1);
    CHECK_EQ(float_to_half(-middle), ((h & 1) ? h + 1 : h) | 0x8000u);
  }
}

TEST(floats_beyond_the_largest_half_become_infinite) {
  CHECK_EQ(float_to_half(65504.0f), 0x7bff);
  CHECK_EQ(float_to_half(std::nextafterf(65520.0f, 0)), 0x7bff);
  CHECK_EQ(float_to_half(65520.0f), 0x7c00);
  CHECK_EQ(float_to_half(-1e30f), 0xfc00);
  CHECK_EQ(float_to_half(INFINITY), 0x7c00);
}

TEST(bfloat16_is_the_upper_half_of_a_float_rounded_to_even) {
  for (uint32_t b = 0; b < 0x10000; ++b) {
    const bool special = (b & 0x7f80) == 0x7f80;
    const float exact = bfloat16_to_float(static_cast<uint16_t>(b));
    CHECK_EQ(std::bit_cast<uint32_t>(exact), b << 16);
    if (special) continue;
    CHECK_EQ(float_to_bfloat16(exact), b);
    CHECK_EQ(float_to_bfloat16(std::bit_cast<float>((b << 16) | 0x7fffu)), b);
    CHECK_EQ(float_to_bfloat16(std::bit_cast<float>((b << 16) | 0x8000u)), b + (b & 1));
    CHECK_EQ(float_to_bfloat16(std::bit_cast<float>((b << 16) | 0x8001u)), b + 1);
  }
  CHECK(std::isnan(bfloat16_to_float(float_to_bfloat16(NAN))));
  CHECK(std::isnan(bfloat16_to_float(float_to_bfloat16(std::bit_cast<float>(0x7f800001u)))));
}
