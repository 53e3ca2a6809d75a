#include "ops/elementwise.h"

#include <cmath>
#include <numbers>

namespace rondo {

std::string_view activation_name(ActivationKind kind) {
  switch (kind) {
    case ActivationKind::gelu_tanh: return "gelu_tanh";
    case ActivationKind::gelu_erf: return "gelu_erf";
    case ActivationKind::quick_gelu: return "quick_gelu";
    case ActivationKind::silu: return "silu";
    case ActivationKind::mish: return "mish";
    case ActivationKind::relu: return "relu";
  }
  return "";
}

double activation_value(ActivationKind kind, double x) {
  switch (kind) {
    case ActivationKind::gelu_tanh:
      return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
    case ActivationKind::gelu_erf: return 0.5 * x * (1.0 + std::erf(x / std::numbers::sqrt2));
    case ActivationKind::quick_gelu: return x / (1.0 + std::exp(-1.702 * x));
    case ActivationKind::silu: return x / (1.0 + std::exp(-x));
    case ActivationKind::mish: return x * std::tanh(x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)));
    case ActivationKind::relu: return x > 0 || std::isnan(x) ? x : 0.0;
  }
  return 0;
}

std::vector<TensorType> ActivationOp::infer(std::span<const TensorType> inputs) const {
  check_count(inputs, 1, 1);
  check_floating(inputs);
  return {inputs[0]};
}

void ActivationOp::reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const {
  for (std::size_t i = 0; i < inputs[0].values.size(); ++i) {
    outputs[0].values[i] = activation_value(kind_, inputs[0].values[i]);
  }
}

std::vector<TensorType> SwigluOp::infer(std::span<const TensorType> inputs) const {
  check_count(inputs, 1, 1);
  check_floating(inputs);
  check(inputs[0].shape.rank() >= 1 && inputs[0].shape.back() % 2 == 0,
        "input {} is given; allowed is [..., 2 F], hidden and gate side by side", inputs[0].shape.to_string());
  TensorType result = inputs[0];
  result.shape[result.shape.rank() - 1] /= 2;
  return {result};
}

void SwigluOp::reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const {
  const std::int64_t width = outputs[0].shape.back();
  for (std::int64_t row = 0; row < outputs[0].shape.rows(); ++row) {
    const double* hidden = inputs[0].values.data() + row * 2 * width;
    for (std::int64_t i = 0; i < width; ++i) {
      outputs[0].values[static_cast<std::size_t>(row * width + i)] =
          hidden[i] * activation_value(ActivationKind::silu, hidden[width + i]);
    }
  }
}

std::optional<std::size_t> BinaryOp::token_axis(std::span<const TensorType> inputs, std::size_t index) const {
  // b's axes are a's last ones.
  const std::size_t missing = inputs[0].shape.rank() - inputs[index].shape.rank();
  if (inputs[0].shape.rank() < 3 || missing > 1) return std::nullopt;
  return 1 - missing;
}

std::vector<TensorType> BinaryOp::infer(std::span<const TensorType> inputs) const {
  check_count(inputs, 2, 2);
  check_floating(inputs);
  const Shape& a = inputs[0].shape;
  const Shape& b = inputs[1].shape;
  bool fits = b.rank() <= a.rank();
  for (std::size_t axis = 0; fits && axis < b.rank(); ++axis) fits = b[axis] == a[a.rank() - b.rank() + axis];
  check(fits, "inputs {} and {} do not fit; allowed is a second shape that ends the first", a.to_string(),
        b.to_string());
  return {inputs[0]};
}

void BinaryOp::reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const {
  const std::size_t period = inputs[1].values.size();
  for (std::size_t i = 0; i < inputs[0].values.size(); ++i) {
    const double a = inputs[0].values[i];
    const double b = inputs[1].values[i % period];
    outputs[0].values[i] = kind_ == BinaryKind::add ? a + b : a * b;
  }
}

std::vector<TensorType> CastOp::infer(std::span<const TensorType> inputs) const {
  check_count(inputs, 1, 1);
  check_floating(inputs);
  check(is_floating(dtype_), "to {} is not possible; allowed are the floating dtypes", dtype_name(dtype_));
  TensorType result = inputs[0];
  result.dtype = dtype_;
  return {result};
}

void CastOp::reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const {
  outputs[0].values = inputs[0].values;
}

}  // namespace rondo
