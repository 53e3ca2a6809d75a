#include "ops/rope.h"

namespace rondo {

std::vector<TensorType> RopeOp::infer(std::span<const TensorType> inputs) const {
  check_count(inputs, 3, 3);
  check_floating(inputs);
  const Shape& x = inputs[0].shape;
  check(inputs[1].shape == inputs[2].shape, "tables {} and {} differ", inputs[1].shape.to_string(),
        inputs[2].shape.to_string());
  const Shape& table = inputs[1].shape;
  check(x.rank() == 4 && x[3] % 2 == 0 && (table == Shape{x[1], x[3]} || table == Shape{x[1], x[3] / 2}),
        "input {} and table {} do not fit; allowed are [B, S, N, D] with even D and [S, D] or [S, D / 2]",
        x.to_string(), table.to_string());
  return {inputs[0]};
}

void RopeOp::reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const {
  const RefTensor& x = inputs[0];
  const std::int64_t half = x.shape[3] / 2;
  const std::int64_t columns = inputs[1].shape[1];
  const bool shared = columns == half;
  for (std::int64_t row = 0; row < x.shape.rows(); ++row) {
    const std::int64_t position = row / x.shape[2] % x.shape[1];
    const double* in = x.values.data() + row * 2 * half;
    double* out = outputs[0].values.data() + row * 2 * half;
    const double* cos = inputs[1].values.data() + position * columns;
    const double* sin = inputs[2].values.data() + position * columns;
    for (std::int64_t i = 0; i < half; ++i) {
      const std::int64_t a = mode_ == RotaryMode::half ? i : 2 * i;
      const std::int64_t b = mode_ == RotaryMode::half ? i + half : 2 * i + 1;
      out[a] = in[a] * cos[shared ? i : a] - in[b] * sin[shared ? i : a];
      out[b] = in[b] * cos[shared ? i : b] + in[a] * sin[shared ? i : b];
    }
  }
}

}  // namespace rondo
