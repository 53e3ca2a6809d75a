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

/// out = weight_a a + weight_b b; a side without weight must not speak, even if it holds NaN from memory that nobody
/// wrote.
template <typename In, typename Out>
void mix(const typename In::Element* a, float weight_a, const typename In::Element* b, float weight_b,
         std::int64_t width, typename Out::Element* out) {
  if (weight_a == 0 || weight_b == 0) {
    const auto* speaks = weight_a == 0 ? b : a;
    const float weight = weight_a == 0 ? weight_b : weight_a;
    for (std::int64_t d = 0; d < width; ++d) out[d] = Out::narrow(weight * In::widen(speaks[d]));
  } else {
    for (std::int64_t d = 0; d < width; ++d)
      out[d] = Out::narrow(weight_a * In::widen(a[d]) + weight_b * In::widen(b[d]));
  }
}

template <typename In, typename Out>
void merge_rows(const AttentionResult& a, const AttentionResult& b, AttentionResult& merged, int threads) {
  constexpr float kNothing = -std::numeric_limits<float>::infinity();
  const Shape& shape = merged.output.shape();
  const auto offset = [](const Tensor& tensor, std::int64_t x, std::int64_t y, std::int64_t z) {
    return x * tensor.strides()[0] + y * tensor.strides()[1] + z * tensor.strides()[2];
  };
  parallel_ranges(threads, shape[0] * shape[1], 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const std::int64_t batch = row / shape[1];
      const std::int64_t token = row % shape[1];
      for (std::int64_t head = 0; head < shape[2]; ++head) {
        const float lse_a = a.lse.as<float>()[offset(a.lse, batch, head, token)];
        const float lse_b = b.lse.as<float>()[offset(b.lse, batch, head, token)];
        const float most = std::max(lse_a, lse_b);
        // Of two infinite ones each has all the weight; their difference would be NaN.
        const float weight_a = lse_a == most ? 1.0F : std::exp(lse_a - most);
        const float weight_b = lse_b == most ? 1.0F : std::exp(lse_b - most);
        const float sum = weight_a + weight_b;
        auto* out = merged.output.as<typename Out::Element>() + offset(merged.output, batch, token, head);
        float& lse = merged.lse.as<float>()[offset(merged.lse, batch, head, token)];
        if (most == kNothing) {  // neither side has seen a key, whatever their memory holds
          std::fill_n(out, shape[3], Out::narrow(0.0F));
          lse = kNothing;
          continue;
        }
        mix<In, Out>(a.output.as<typename In::Element>() + offset(a.output, batch, token, head), weight_a / sum,
                     b.output.as<typename In::Element>() + offset(b.output, batch, token, head), weight_b / sum,
                     shape[3], out);
        lse = most + std::log(sum);
      }
    }
  });
}

/// Calls body with the format of a dtype.
template <typename Body>
void with_format(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::bf16: return body(BFloat16{});
    case DType::f16: return body(Float16{});
    default: return body(Float32{});
  }
}

}  // namespace

void merge_states(const AttentionResult& a, const AttentionResult& b, AttentionResult merged, int threads) {
  with_format(a.output.dtype(), [&]<typename In>(In) {
    with_format(merged.output.dtype(), [&]<typename Out>(Out) { merge_rows<In, Out>(a, b, merged, threads); });
  });
}

}  // namespace rondo
