#include "attention/merge_states.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/float_formats.h"
#include "core/threads.h"

namespace rondo {
namespace {

struct Float32 {
  using Element = float;
  static float widen(float value) { return value; }
  static float narrow(float value) { return value; }
};
struct BFloat16 {
  using Element = std::uint16_t;
  static float widen(std::uint16_t bits) { return bf16_to_float(bits); }
  static std::uint16_t narrow(float value) { return float_to_bf16(value); }
};
struct Float16 {
  using Element = std::uint16_t;
  static float widen(std::uint16_t bits) { return f16_to_float(bits); }
  static std::uint16_t narrow(float value) { return float_to_f16(value); }
};

template <typename Format>
void merge_as(AttentionResult& a, const AttentionResult& b, int threads) {
  using Element = typename Format::Element;
  constexpr float kNothing = -std::numeric_limits<float>::infinity();
  const Shape& shape = a.output.shape();
  const std::int64_t width = shape[3];
  const auto offset = [](const Shape& strides, std::int64_t x, std::int64_t y, std::int64_t z) {
    return x * strides[0] + y * strides[1] + z * strides[2];
  };
  parallel_ranges(threads, shape[0] * shape[1], 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const std::int64_t batch = row / shape[1];
      const std::int64_t token = row % shape[1];
      for (std::int64_t head = 0; head < shape[2]; ++head) {
        float& lse = a.lse.as<float>()[offset(a.lse.strides(), batch, head, token)];
        const float other = b.lse.as<float>()[offset(b.lse.strides(), batch, head, token)];
        const float most = std::max(lse, other);
        // Of two infinite ones each has all the weight; their difference would be NaN.
        const float weight_a = lse == most ? 1.0F : std::exp(lse - most);
        const float weight_b = other == most ? 1.0F : std::exp(other - most);
        const float sum = weight_a + weight_b;
        Element* x = a.output.as<Element>() + offset(a.output.strides(), batch, token, head);
        if (most == kNothing) {  // neither side has seen a key, whatever their memory holds
          std::fill_n(x, width, Format::narrow(0.0F));
          continue;
        }
        const Element* y = b.output.as<Element>() + offset(b.output.strides(), batch, token, head);
        for (std::int64_t d = 0; d < width; ++d) {
          // A side without weight must not speak, even if it holds NaN from memory that nobody wrote.
          const float from_a = weight_a == 0 ? 0 : weight_a * Format::widen(x[d]);
          const float from_b = weight_b == 0 ? 0 : weight_b * Format::widen(y[d]);
          x[d] = Format::narrow((from_a + from_b) / sum);
        }
        lse = most + std::log(sum);
      }
    }
  });
}

}  // namespace

void merge_states_into(AttentionResult& a, const AttentionResult& b, int threads) {
  switch (a.output.dtype()) {
    case DType::bf16: return merge_as<BFloat16>(a, b, threads);
    case DType::f16: return merge_as<Float16>(a, b, threads);
    default: return merge_as<Float32>(a, b, threads);
  }
}

}  // namespace rondo
