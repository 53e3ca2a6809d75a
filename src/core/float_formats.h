// Conversions between float32 and the narrow floating formats, one value at a time. Bulk loops over these are
// vectorised by the compiler or run once, at load; kernels convert in registers instead.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace rondo {

inline float bf16_to_float(std::uint16_t bits) { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }

/// Round to nearest even; a NaN stays a (quiet) NaN.
inline std::uint16_t float_to_bf16(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffU) > 0x7f800000U) return static_cast<std::uint16_t>((bits >> 16) | 0x40U);
  return static_cast<std::uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

inline float f16_to_float(std::uint16_t bits) {
  const std::uint32_t sign = (bits & 0x8000U) << 16;
  const std::uint32_t exponent = (bits >> 10) & 0x1fU;
  const std::uint32_t mantissa = bits & 0x3ffU;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000U | (mantissa << 13));
  if (exponent == 0) {  // zero and subnormals: mantissa * 2^-24 is exact in float32
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24F;
    return sign != 0 ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | ((exponent + 112U) << 23) | (mantissa << 13));
}

/// Round to nearest even; overflow gives infinity.
inline std::uint16_t float_to_f16(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000U);
  const std::uint32_t magnitude = bits & 0x7fffffffU;
  if (magnitude > 0x7f800000U) return sign | 0x7e00U;
  if (magnitude >= 0x477ff000U) return sign | 0x7c00U;  // 65520 and above round to infinity
  if (magnitude < 0x38800000U) {                        // below 2^-14: subnormal, in units of 2^-24
    const float scaled = std::bit_cast<float>(magnitude) * 0x1p24F;
    return sign | static_cast<std::uint16_t>(std::nearbyint(scaled));
  }
  return sign | static_cast<std::uint16_t>((magnitude - 0x38000000U + 0xfffU + ((magnitude >> 13) & 1U)) >> 13);
}

/// e4m3 as the field stores it ("fn": no infinities, 0x7f and 0xff are NaN, largest 448).
inline float f8_e4m3_to_float(std::uint8_t bits) {
  const int exponent = (bits >> 3) & 0xf;
  const int mantissa = bits & 7;
  if ((bits & 0x7f) == 0x7f) return std::numeric_limits<float>::quiet_NaN();
  const float magnitude = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                                        : std::ldexp(8.0F + static_cast<float>(mantissa), exponent - 10);
  return (bits & 0x80) != 0 ? -magnitude : magnitude;
}

/// Round to nearest even; values beyond 448 saturate, since the format has no infinity.
inline std::uint8_t float_to_f8_e4m3(float value) {
  if (std::isnan(value)) return 0x7f;
  const std::uint8_t sign = std::signbit(value) ? 0x80 : 0;
  const float magnitude = std::fabs(value);
  if (magnitude >= 448.0F) return sign | 0x7e;
  int exponent = 0;
  std::frexp(magnitude, &exponent);
  // A normal number has 3 mantissa bits below its leading one; below 2^-6 the step stays at 2^-9.
  const int step = magnitude < 0x1p-6F ? -9 : exponent - 4;
  const auto units = static_cast<int>(std::nearbyint(std::ldexp(magnitude, -step)));
  const int biased = step + 9;  // 0 for the subnormal range and the lowest normal binade
  return sign | static_cast<std::uint8_t>((biased << 3) + units);
}

}  // namespace rondo
