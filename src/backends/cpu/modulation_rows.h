// Scale, shift and gate of adaptive norms, by rows.
#pragma once

#include "backends/cpu/row_map.h"

namespace rondo::cpu {

/// A modulation ([B, D], [B, 1, D] or [B, S, D]) with a row for each row of x.
inline RowMap modulation_rows(const Tensor& vector, const Shape& x) {
  const Shape& strides = vector.strides();
  const std::int64_t width_stride = strides.back();
  const bool each_token = vector.shape().rank() == 3 && vector.shape()[1] == x[1];
  return RowMap(vector.restrided(x, {strides[0], each_token ? strides[1] : 0, width_stride}));
}

}  // namespace rondo::cpu
