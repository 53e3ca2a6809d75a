#include "attention/attention_op.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace rondo {

std::vector<TensorType> AttentionOp::infer(std::span<const TensorType> inputs) const {
  check_count(inputs, 3, 4);
  check_floating(inputs);
  const Shape& q = inputs[0].shape;
  const Shape& k = inputs[1].shape;
  const Shape& v = inputs[2].shape;
  const bool fits = q.rank() == 4 && k.rank() == 4 && v.rank() == 4 && q[0] == k[0] && k[0] == v[0] && k[1] == v[1] &&
                    k[2] == v[2] && q[3] == k[3] && k[2] > 0 && q[2] % k[2] == 0;
  check(fits, "query {}, key {} and value {} do not fit; allowed are [B, Sq, H, D], [B, Sk, Hk, D] and [B, Sk, Hk, Dv]",
        q.to_string(), k.to_string(), v.to_string());
  check(inputs[1].dtype == inputs[0].dtype && inputs[2].dtype == inputs[0].dtype,
        "query {}, key {} and value {} differ in dtype", dtype_name(inputs[0].dtype), dtype_name(inputs[1].dtype),
        dtype_name(inputs[2].dtype));
  if (inputs.size() == 4) {
    const Shape& bias = inputs[3].shape;
    check(inputs[3].dtype == DType::f32 && bias.rank() == 4 && (bias[0] == 1 || bias[0] == q[0]) &&
              (bias[1] == 1 || bias[1] == q[2]) && bias[2] == q[1] && bias[3] == k[1],
          "bias {} does not fit query {} and key {}; allowed is float32 [B or 1, H or 1, Sq, Sk]",
          inputs[3].to_string(), q.to_string(), k.to_string());
  }
  TensorType result = inputs[0];
  result.shape = {q[0], q[1], q[2], v[3]};
  return {result};
}

void AttentionOp::reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const {
  const Shape& q = inputs[0].shape;
  const Shape& k = inputs[1].shape;
  const std::int64_t value_dim = inputs[2].shape[3];
  const std::int64_t group = q[2] / k[2];
  std::vector<double> scores(static_cast<std::size_t>(k[1]));
  std::size_t target = 0;
  for (std::int64_t b = 0; b < q[0]; ++b) {
    for (std::int64_t i = 0; i < q[1]; ++i) {
      for (std::int64_t h = 0; h < q[2]; ++h, target += static_cast<std::size_t>(value_dim)) {
        const double* query = &inputs[0].values[((b * q[1] + i) * q[2] + h) * q[3]];
        double most = -std::numeric_limits<double>::infinity();
        for (std::int64_t j = 0; j < k[1]; ++j) {
          const double* key = &inputs[1].values[((b * k[1] + j) * k[2] + h / group) * k[3]];
          double score = 0;
          for (std::int64_t d = 0; d < q[3]; ++d) score += query[d] * key[d];
          score *= scale_;
          if (inputs.size() == 4) {
            const Shape& s = inputs[3].shape;
            const std::int64_t row = ((s[0] == 1 ? 0 : b) * s[1] + (s[1] == 1 ? 0 : h)) * s[2] + i;
            score += inputs[3].values[row * s[3] + j];
          }
          if (causal_ && j > i + k[1] - q[1]) score = -std::numeric_limits<double>::infinity();
          scores[j] = score;
          most = std::max(most, score);
        }
        double* out = &outputs[0].values[target];
        std::fill_n(out, value_dim, 0.0);
        if (std::isinf(most) && most < 0) continue;
        double sum = 0;
        for (std::int64_t j = 0; j < k[1]; ++j) {
          const double weight = std::exp(scores[j] - most);
          sum += weight;
          const double* value = &inputs[2].values[((b * k[1] + j) * k[2] + h / group) * value_dim];
          for (std::int64_t d = 0; d < value_dim; ++d) out[d] += weight * value[d];
        }
        for (std::int64_t d = 0; d < value_dim; ++d) out[d] /= sum;
      }
    }
  }
}

double AttentionOp::flops(std::span<const TensorType> inputs) const {
  const Shape& q = inputs[0].shape;
  const auto scores = static_cast<double>(q[0] * q[1] * q[2] * inputs[1].shape[1]);
  return 2.0 * scores * static_cast<double>(q[3] + inputs[2].shape[3]);
}

}  // namespace rondo
