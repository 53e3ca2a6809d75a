#include "schedulers/noise.h"

#include <cmath>
#include <numbers>
#include <random>
#include <span>

namespace rondo {
namespace {

/// 24 random bits as a float in [0, 1).
float uniform_float(std::mt19937& engine) { return static_cast<float>(engine() & 0xffffffU) * 0x1p-24F; }

/// 53 random bits as a double in [0, 1): two draws, the first on top.
double uniform_double(std::mt19937& engine) {
  const std::uint64_t high = engine();
  const std::uint64_t bits = (high << 32) | engine();
  return static_cast<double>(bits & ((std::uint64_t{1} << 53) - 1)) * 0x1p-53;
}

/// Box and Muller's transform on sixteen uniforms: the first eight give radii, the others angles.
void transform_sixteen(std::span<float, 16> values) {
  for (std::size_t i = 0; i < 8; ++i) {
    const float radius = std::sqrt(-2.0F * std::log(1.0F - values[i]));
    const float angle = 2.0F * std::numbers::pi_v<float> * values[i + 8];
    values[i] = radius * std::cos(angle);
    values[i + 8] = radius * std::sin(angle);
  }
}

}  // namespace

std::vector<float> seeded_normal_noise(std::uint64_t seed, std::size_t count) {
  std::mt19937 engine(static_cast<std::uint32_t>(seed));  // torch, too, takes the low 32 bits
  std::vector<float> noise(count);
  if (count < 16) {
    double kept = 0;
    for (std::size_t i = 0; i < count; ++i) {
      if (i % 2 == 1) {
        noise[i] = static_cast<float>(kept);
        continue;
      }
      const double angle = 2.0 * std::numbers::pi * uniform_double(engine);
      const double radius = std::sqrt(-2.0 * std::log1p(-uniform_double(engine)));
      noise[i] = static_cast<float>(radius * std::cos(angle));
      kept = radius * std::sin(angle);
    }
    return noise;
  }
  const std::span<float> all(noise);
  for (float& value : noise) value = uniform_float(engine);
  for (std::size_t i = 0; i + 16 <= count; i += 16) transform_sixteen(all.subspan(i).first<16>());
  if (count % 16 != 0) {  // the last sixteen are drawn anew, over what a whole block has already written
    const auto last = all.last<16>();
    for (float& value : last) value = uniform_float(engine);
    transform_sixteen(last);
  }
  return noise;
}

}  // namespace rondo
