// Attention as the fused operators compute it.
#pragma once

#include <limits>

#include "operator.h"

namespace ascend_simulator {

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
};

inline View swapped(View view, std::size_t a, std::size_t b) {
  std::swap(view.dims[a], view.dims[b]);
  std::swap(view.strides[a], view.strides[b]);
  return view;
}

/// Weights are rounded to float16 or bfloat16 before they meet the values, as the hardware does.
inline void attend(const AttentionOperands& o) {
  const std::vector<double> q = o.query.values();
  const std::vector<double> k = o.key.values();
  const std::vector<double> v = o.value.values();
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
          const double weight = std::exp(scores[static_cast<std::size_t>(j)] - most);
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
