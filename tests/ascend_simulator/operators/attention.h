// Attention as the fused operators compute it.
#pragma once

#include <limits>

#include "operator.h"

namespace ascend_simulator {

/// A scale for every so many rows of a head of [B, S, N, D]; [B, N, blocks, 1].
struct BlockScales {
  std::int64_t rows = 0;  // 0: none
  View scales = view_of(nullptr);
};

/// The operand's values as what they stand for.
inline std::vector<double> scaled_values(const View& x, const BlockScales& s) {
  std::vector<double> values = x.values();
  if (s.rows == 0) return values;
  const std::vector<double> scales = s.scales.values();
  const std::int64_t width = x.dims[3];
  const std::int64_t blocks = s.scales.dims[2];
  for (std::int64_t row = 0; row < x.dims[0] * x.dims[1] * x.dims[2]; ++row) {
    const std::int64_t head = row % x.dims[2];
    const std::int64_t token = row / x.dims[2] % x.dims[1];
    const std::int64_t batch = row / (x.dims[2] * x.dims[1]);
    const double scale = scales[static_cast<std::size_t>((batch * x.dims[2] + head) * blocks + token / s.rows)];
    for (std::int64_t d = 0; d < width; ++d) values[static_cast<std::size_t>(row * width + d)] *= scale;
  }
  return values;
}

/// Operands as [B, S, N, D] views; the mask [B or 1, 1, Sq, Sk], true = hidden.
struct AttentionOperands {
  View query;
  View key;
  View value;
  bool has_mask = false;
  View mask;
  bool causal = false;  // aligned at the bottom right
  double scale = 1;
  View output;
  bool has_lse = false;
  View lse;  // [B, N, Sq, 1]
  BlockScales query_scales = {};
  BlockScales key_scales = {};
  BlockScales value_scales = {};
};

inline View swapped(View view, std::size_t a, std::size_t b) {
  std::swap(view.dims[a], view.dims[b]);
  std::swap(view.strides[a], view.strides[b]);
  return view;
}

/// A weight as e4m3 has it, which keeps four significant bits.
inline double in_e4m3(double weight) {
  int exponent = 0;
  const double fraction = std::frexp(weight, &exponent);
  return std::ldexp(std::nearbyint(fraction * 16) / 16, exponent);
}

/// In doubles. Of quantised operands the weights become e4m3, too.
inline void attend(const AttentionOperands& o) {
  const std::vector<double> q = scaled_values(o.query, o.query_scales);
  const std::vector<double> k = scaled_values(o.key, o.key_scales);
  const std::vector<double> v = scaled_values(o.value, o.value_scales);
  const std::vector<double> hidden =
      o.has_mask ? o.mask.broadcast({o.query.dims[0], 1, o.query.dims[1], o.key.dims[1]}).values()
                 : std::vector<double>();
  const std::int64_t batch = o.query.dims[0];
  const std::int64_t queries = o.query.dims[1];
  const std::int64_t heads = o.query.dims[2];
  const std::int64_t width = o.query.dims[3];
  const std::int64_t keys = o.key.dims[1];
  const std::int64_t key_heads = o.key.dims[2];
  const std::int64_t group = heads / key_heads;
  std::vector<double> result(q.size(), 0.0);
  std::vector<double> sums(static_cast<std::size_t>(batch * heads * queries));
#pragma omp parallel for collapse(2)
  for (std::int64_t b = 0; b < batch; ++b) {
    for (std::int64_t h = 0; h < heads; ++h) {
      std::vector<double> scores(static_cast<std::size_t>(keys));
      for (std::int64_t i = 0; i < queries; ++i) {
        const double* const row = q.data() + ((b * queries + i) * heads + h) * width;
        double most = -std::numeric_limits<double>::infinity();
        for (std::int64_t j = 0; j < keys; ++j) {
          const double* const other = k.data() + ((b * keys + j) * key_heads + h / group) * width;
          double sum = 0;
          for (std::int64_t d = 0; d < width; ++d) sum += row[d] * other[d];
          const bool gone = (o.causal && j > i + keys - queries) ||
                            (o.has_mask && hidden[static_cast<std::size_t>((b * queries + i) * keys + j)] != 0);
          scores[static_cast<std::size_t>(j)] = gone ? -std::numeric_limits<double>::infinity() : sum * o.scale;
          most = std::max(most, scores[static_cast<std::size_t>(j)]);
        }
        double total = 0;
        double* const target = result.data() + ((b * queries + i) * heads + h) * width;
        for (std::int64_t j = 0; j < keys && !std::isinf(most); ++j) {
          const double exact = std::exp(scores[static_cast<std::size_t>(j)] - most);
          const double weight = o.value_scales.rows > 0 ? in_e4m3(exact) : exact;
          total += weight;
          const double* const other = v.data() + ((b * keys + j) * key_heads + h / group) * width;
          for (std::int64_t d = 0; d < width; ++d) target[d] += weight * other[d];
        }
        for (std::int64_t d = 0; d < width && total > 0; ++d) target[d] /= total;
        sums[static_cast<std::size_t>((b * heads + h) * queries + i)] = most + std::log(total);
      }
    }
  }
  o.output.store(result);
  if (o.has_lse) o.lse.store(sums);
}

}  // namespace ascend_simulator
