#include "ops/rope.h"

namespace rondo {

std::vector<TensorType> RopeOp::infer(std::span<const TensorType> inputs) const {
  check_count(inputs, 3, 3);
  check_floating(inputs);
  const Shape& x = inputs[0].shape;
  for (const TensorType& table : inputs.subspan(1)) {
    check(x.rank() == 4 && x[3] % 2 == 0 && table.shape == Shape{x[1], x[3] / 2},
          "input {} and table {} do not fit; allowed are [B, S, H, D] with even D and [S, D / 2]", x.to_string(),
          table.shape.to_string());
  }
  return {inputs[0]};
}

void RopeOp::reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const {
  const RefTensor& x = inputs[0];
  const std::int64_t half = x.shape[3] / 2;
  for (std::int64_t row = 0; row < x.shape.rows(); ++row) {
    const std::int64_t position = row / x.shape[2] % x.shape[1];
    for (std::int64_t i = 0; i < half; ++i) {
      const double cos = inputs[1].values[position * half + i];
      const double sin = inputs[2].values[position * half + i];
      const double even = x.values[row * 2 * half + 2 * i];
      const double odd = x.values[row * 2 * half + 2 * i + 1];
      outputs[0].values[row * 2 * half + 2 * i] = even * cos - odd * sin;
      outputs[0].values[row * 2 * half + 2 * i + 1] = odd * cos + even * sin;
    }
  }
}

}  // namespace rondo
