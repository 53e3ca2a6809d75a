#include "attention/merge_attention_op.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace rondo {

std::vector<TensorType> MergeAttentionOp::infer(std::span<const TensorType> inputs) const {
  check_count(inputs, 4, 4);
  for (const std::size_t state : {0, 2}) {
    const Shape& s = inputs[state].shape;
    check(s == inputs[0].shape && s.rank() == 4 && inputs[state + 1].shape == Shape{s[0], s[2], s[1]} &&
              inputs[state].dtype == DType::f32 && inputs[state + 1].dtype == DType::f32,
          "{} and lse {} do not fit; allowed are float32 [B, S, N, D] and [B, N, S]", inputs[state].to_string(),
          inputs[state + 1].to_string());
  }
  TensorType output = inputs[0];
  output.dtype = dtype_;
  return {output, inputs[1]};
}

void MergeAttentionOp::reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const {
  const Shape& s = inputs[0].shape;
  constexpr double kNothing = -std::numeric_limits<double>::infinity();
  for (std::int64_t row = 0; row < s.rows(); ++row) {
    const std::int64_t head = row % s[2];
    const std::int64_t token = row / s[2] % s[1];
    const auto at = static_cast<std::size_t>((row / (s[1] * s[2]) * s[2] + head) * s[1] + token);
    const double a = inputs[1].values[at];
    const double b = inputs[3].values[at];
    const double most = std::max(a, b);
    const double lse = most == kNothing ? kNothing : most + std::log(std::exp(a - most) + std::exp(b - most));
    outputs[1].values[at] = lse;
    for (std::int64_t d = 0; d < s[3]; ++d) {
      const auto i = static_cast<std::size_t>(row * s[3] + d);
      const double from_a = a == kNothing ? 0 : std::exp(a - lse) * inputs[0].values[i];
      const double from_b = b == kNothing ? 0 : std::exp(b - lse) * inputs[2].values[i];
      outputs[0].values[i] = from_a + from_b;
    }
  }
}

}  // namespace rondo
