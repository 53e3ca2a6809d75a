// Elements in memory as numbers and back, rounding to nearest even.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "tensors.h"

namespace ascend_simulator {

template <typename T>
T read_as(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}
template <typename T>
void write_as(std::byte* to, T value) {
  std::memcpy(to, &value, sizeof value);
}

/// Any small binary float: `exponent` and `mantissa` bits below a sign; `finite`: all ones stand for numbers but the
/// last (e4m3fn).
template <int exponent, int mantissa, bool finite>
struct SmallFloat {
  static constexpr int kBias = (1 << (exponent - 1)) - 1;
  static float decode(std::uint32_t bits) {
    const bool negative = (bits >> (exponent + mantissa)) != 0;
    const std::uint32_t e = (bits >> mantissa) & ((1U << exponent) - 1);
    const std::uint32_t m = bits & ((1U << mantissa) - 1);
    constexpr std::uint32_t kTop = (1U << exponent) - 1;
    constexpr std::uint32_t kOnes = (1U << mantissa) - 1;
    float magnitude = 0;
    if (finite ? (e == kTop && m == kOnes) : (e == kTop && m != 0)) {
      magnitude = NAN;
    } else if (!finite && e == kTop) {
      magnitude = INFINITY;
    } else if (e == 0) {
      magnitude = std::ldexp(static_cast<float>(m), 1 - kBias - mantissa);
    } else {
      magnitude = std::ldexp(static_cast<float>(m + (1U << mantissa)), static_cast<int>(e) - kBias - mantissa);
    }
    return negative ? -magnitude : magnitude;
  }
  static std::uint32_t encode(float value) {
    const std::uint32_t sign = std::signbit(value) ? 1U << (exponent + mantissa) : 0;
    constexpr std::uint32_t kTop = (1U << exponent) - 1;
    if (std::isnan(value)) return sign | (kTop << mantissa) | (finite ? (1U << mantissa) - 1 : 1U << (mantissa - 1));
    const double magnitude = std::fabs(static_cast<double>(value));
    const int lowest = 1 - kBias - mantissa;  // of the smallest step
    int e = magnitude > 0 ? std::ilogb(magnitude) : lowest;
    const int step = std::max(e - mantissa, lowest);
    const auto units = static_cast<std::uint64_t>(std::nearbyint(std::ldexp(magnitude, -step)));
    // Counting in steps carries into the exponent by itself.
    const std::uint64_t bits = step == lowest ? units : (static_cast<std::uint64_t>(step - lowest) << mantissa) + units;
    const std::uint64_t most =
        finite ? (std::uint64_t{kTop} << mantissa) + ((1U << mantissa) - 2) : std::uint64_t{kTop} << mantissa;
    return sign | static_cast<std::uint32_t>(std::min(bits, most));
  }
};

struct Float32Format {
  static double load(const std::byte* from) { return read_as<float>(from); }
  static void store(std::byte* to, double value) { write_as(to, static_cast<float>(value)); }
};
struct Bfloat16Format {
  static double load(const std::byte* from) {
    return std::bit_cast<float>(static_cast<std::uint32_t>(read_as<std::uint16_t>(from)) << 16);
  }
  static void store(std::byte* to, double value) {
    auto bits = std::bit_cast<std::uint32_t>(static_cast<float>(value));
    if (std::isnan(value)) return write_as(to, static_cast<std::uint16_t>((bits >> 16) | 0x40));
    bits += 0x7FFF + ((bits >> 16) & 1);
    write_as(to, static_cast<std::uint16_t>(bits >> 16));
  }
};
struct Float16Format {
  using Bits = SmallFloat<5, 10, false>;
  static double load(const std::byte* from) { return Bits::decode(read_as<std::uint16_t>(from)); }
  static void store(std::byte* to, double value) {
    write_as(to, static_cast<std::uint16_t>(Bits::encode(static_cast<float>(value))));
  }
};
struct E4m3Format {
  using Bits = SmallFloat<4, 3, true>;
  static double load(const std::byte* from) { return Bits::decode(read_as<std::uint8_t>(from)); }
  static void store(std::byte* to, double value) {
    write_as(to, static_cast<std::uint8_t>(Bits::encode(static_cast<float>(value))));
  }
};
template <typename T>
struct IntegerFormat {
  static double load(const std::byte* from) { return static_cast<double>(read_as<T>(from)); }
  static void store(std::byte* to, double value) { write_as(to, static_cast<T>(value)); }
};
struct BooleanFormat {
  static double load(const std::byte* from) { return read_as<std::uint8_t>(from) != 0 ? 1 : 0; }
  static void store(std::byte* to, double value) { write_as(to, static_cast<std::uint8_t>(value != 0)); }
};

/// Calls visit with the format of a dtype.
template <typename Visit>
void with_format(Dtype dtype, const Visit& visit) {
  switch (dtype) {
    case Dtype::float32: return visit(Float32Format{});
    case Dtype::float16: return visit(Float16Format{});
    case Dtype::bfloat16: return visit(Bfloat16Format{});
    case Dtype::float8_e4m3fn: return visit(E4m3Format{});
    case Dtype::int8: return visit(IntegerFormat<std::int8_t>{});
    case Dtype::uint8: return visit(IntegerFormat<std::uint8_t>{});
    case Dtype::int32: return visit(IntegerFormat<std::int32_t>{});
    case Dtype::int64: return visit(IntegerFormat<std::int64_t>{});
    case Dtype::boolean: return visit(BooleanFormat{});
  }
  breach("a dtype that this simulator does not know");
}

}  // namespace ascend_simulator
