#include "ops/linear.h"

namespace rondo {

std::vector<TensorType> LinearOp::infer(std::span<const TensorType> inputs) const {
  check_count(inputs, 2, 3);
  check_floating(inputs);
  const TensorType& x = inputs[0];
  const Shape& weight = inputs[1].shape;
  check(x.shape.rank() >= 2 && weight.rank() == 2 && x.shape.back() == weight[1],
        "input {} and weight {} do not fit; allowed are [..., K] and [N, K]", x.shape.to_string(), weight.to_string());
  if (inputs.size() == 3) {
    check(inputs[2].shape == Shape{weight[0]}, "bias {} does not fit weight {}; allowed is [{}]",
          inputs[2].shape.to_string(), weight.to_string(), weight[0]);
  }
  TensorType result = x;
  result.shape[result.shape.rank() - 1] = weight[0];
  return {result};
}

void LinearOp::reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const {
  const RefTensor& x = inputs[0];
  const RefTensor& weight = inputs[1];
  const std::int64_t rows = x.shape.rows();
  const std::int64_t in = weight.shape[1];
  const std::int64_t out = weight.shape[0];
  for (std::int64_t m = 0; m < rows; ++m) {
    for (std::int64_t n = 0; n < out; ++n) {
      double sum = inputs.size() == 3 ? inputs[2].values[n] : 0.0;
      for (std::int64_t k = 0; k < in; ++k) sum += x.values[m * in + k] * weight.values[n * in + k];
      outputs[0].values[m * out + n] = activation_ ? activation_value(*activation_, sum) : sum;
    }
  }
}

double LinearOp::flops(std::span<const TensorType> inputs) const {
  return 2.0 * static_cast<double>(inputs[0].shape.elements()) * static_cast<double>(inputs[1].shape[0]);
}

}  // namespace rondo
