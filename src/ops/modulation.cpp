#include "ops/modulation.h"

namespace rondo {

double modulation_at(const RefTensor& vector, const Shape& x, std::int64_t i) {
  const bool each_token = vector.values.size() == static_cast<std::size_t>(x.elements());
  const std::int64_t index = each_token ? i : i / (x[1] * x[2]) * x[2] + i % x[2];
  return vector.values[static_cast<std::size_t>(index)];
}

bool is_modulation_of(const Shape& vector, const Shape& x) {
  return x.rank() == 3 && (vector == Shape{x[0], x[2]} || vector == Shape{x[0], 1, x[2]} || vector == x);
}

std::vector<TensorType> ModulateOp::infer(std::span<const TensorType> inputs) const {
  check_count(inputs, 3, 3);
  check_floating(inputs);
  for (const TensorType& vector : inputs.subspan(1)) {
    check(is_modulation_of(vector.shape, inputs[0].shape),
          "input {} and scale or shift {} do not fit; allowed are [B, S, D] and [B, D], [B, 1, D] or [B, S, D]",
          inputs[0].shape.to_string(), vector.shape.to_string());
  }
  return {inputs[0]};
}

void ModulateOp::reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const {
  const Shape& x = inputs[0].shape;
  for (std::int64_t i = 0; i < x.elements(); ++i) {
    const auto at = static_cast<std::size_t>(i);
    outputs[0].values[at] =
        inputs[0].values[at] * (1.0 + modulation_at(inputs[1], x, i)) + modulation_at(inputs[2], x, i);
  }
}

std::vector<TensorType> GatedAddOp::infer(std::span<const TensorType> inputs) const {
  check_count(inputs, 3, 3);
  check_floating(inputs);
  check(inputs[0].shape == inputs[2].shape && is_modulation_of(inputs[1].shape, inputs[0].shape),
        "residual {}, gate {} and input {} do not fit; allowed are [B, S, D], [B, D] (or [B, 1, D], [B, S, D]) and "
        "[B, S, D]",
        inputs[0].shape.to_string(), inputs[1].shape.to_string(), inputs[2].shape.to_string());
  return {inputs[0]};
}

void GatedAddOp::reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const {
  const Shape& x = inputs[0].shape;
  for (std::int64_t i = 0; i < x.elements(); ++i) {
    const auto at = static_cast<std::size_t>(i);
    outputs[0].values[at] = inputs[0].values[at] + modulation_at(inputs[1], x, i) * inputs[2].values[at];
  }
}

}  // namespace rondo
