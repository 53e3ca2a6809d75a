#include "ops/modulation.h"

namespace rondo {
namespace {

bool is_vector_per_row_of_batch(const Shape& vector, const Shape& x) {
  return x.rank() == 3 && vector == Shape{x[0], x[2]};
}

/// Calls each(index into x, index into the [B, D] vector).
template <typename Each>
void for_each_modulated(const Shape& x, const Each& each) {
  for (std::int64_t b = 0; b < x[0]; ++b) {
    for (std::int64_t s = 0; s < x[1]; ++s) {
      for (std::int64_t d = 0; d < x[2]; ++d) each((b * x[1] + s) * x[2] + d, b * x[2] + d);
    }
  }
}

}  // namespace

std::vector<TensorType> ModulateOp::infer(std::span<const TensorType> inputs) const {
  check_count(inputs, 3, 3);
  check_floating(inputs);
  for (const TensorType& vector : inputs.subspan(1)) {
    check(is_vector_per_row_of_batch(vector.shape, inputs[0].shape),
          "input {} and scale or shift {} do not fit; allowed are [B, S, D] and [B, D]", inputs[0].shape.to_string(),
          vector.shape.to_string());
  }
  return {inputs[0]};
}

void ModulateOp::reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const {
  for_each_modulated(inputs[0].shape, [&](std::int64_t i, std::int64_t v) {
    outputs[0].values[i] = inputs[0].values[i] * (1.0 + inputs[1].values[v]) + inputs[2].values[v];
  });
}

std::vector<TensorType> GatedAddOp::infer(std::span<const TensorType> inputs) const {
  check_count(inputs, 3, 3);
  check_floating(inputs);
  check(inputs[0].shape == inputs[2].shape && is_vector_per_row_of_batch(inputs[1].shape, inputs[0].shape),
        "residual {}, gate {} and input {} do not fit; allowed are [B, S, D], [B, D] and [B, S, D]",
        inputs[0].shape.to_string(), inputs[1].shape.to_string(), inputs[2].shape.to_string());
  return {inputs[0]};
}

void GatedAddOp::reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const {
  for_each_modulated(inputs[0].shape, [&](std::int64_t i, std::int64_t v) {
    outputs[0].values[i] = inputs[0].values[i] + inputs[1].values[v] * inputs[2].values[i];
  });
}

}  // namespace rondo
