#include "ops/norms.h"

#include <cmath>

namespace rondo {

std::vector<TensorType> RmsNormOp::infer(std::span<const TensorType> inputs) const {
  check_count(inputs, 1, 2);
  check_floating(inputs);
  check(inputs[0].shape.rank() >= 1, "takes a tensor of rank 1 or more");
  if (inputs.size() == 2) {
    check(inputs[1].shape == Shape{inputs[0].shape.back()},
          "input {} and weight {} do not fit; allowed are [..., D] and [D]", inputs[0].shape.to_string(),
          inputs[1].shape.to_string());
  }
  return {inputs[0]};
}

void RmsNormOp::reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const {
  const RefTensor& x = inputs[0];
  const std::int64_t width = x.shape.back();
  for (std::int64_t row = 0; row < x.shape.rows(); ++row) {
    const double* in = &x.values[row * width];
    double* out = &outputs[0].values[row * width];
    double squares = 0;
    for (std::int64_t i = 0; i < width; ++i) squares += in[i] * in[i];
    const double scale = 1.0 / std::sqrt(squares / static_cast<double>(width) + eps_);
    for (std::int64_t i = 0; i < width; ++i) out[i] = in[i] * scale * (inputs.size() == 2 ? inputs[1].values[i] : 1.0);
  }
}

std::vector<TensorType> LayerNormOp::infer(std::span<const TensorType> inputs) const {
  check(inputs.size() == 1 || inputs.size() == 3, "takes 1 or 3 inputs, given {}", inputs.size());
  check_floating(inputs);
  check(inputs[0].shape.rank() >= 1, "takes a tensor of rank 1 or more");
  for (const TensorType& parameter : inputs.subspan(1)) {
    check(parameter.shape == Shape{inputs[0].shape.back()},
          "input {} and weight or bias {} do not fit; allowed are [..., D] and [D]", inputs[0].shape.to_string(),
          parameter.shape.to_string());
  }
  return {inputs[0]};
}

void LayerNormOp::reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const {
  const RefTensor& x = inputs[0];
  const std::int64_t width = x.shape.back();
  for (std::int64_t row = 0; row < x.shape.rows(); ++row) {
    const double* in = &x.values[row * width];
    double* out = &outputs[0].values[row * width];
    double sum = 0;
    for (std::int64_t i = 0; i < width; ++i) sum += in[i];
    const double mean = sum / static_cast<double>(width);
    double squares = 0;
    for (std::int64_t i = 0; i < width; ++i) squares += (in[i] - mean) * (in[i] - mean);
    const double scale = 1.0 / std::sqrt(squares / static_cast<double>(width) + eps_);
    for (std::int64_t i = 0; i < width; ++i) {
      out[i] = (in[i] - mean) * scale;
      if (inputs.size() == 3) out[i] = out[i] * inputs[1].values[i] + inputs[2].values[i];
    }
  }
}

std::vector<TensorType> GroupNormOp::infer(std::span<const TensorType> inputs) const {
  check_count(inputs, 3, 3);
  check_floating(inputs);
  const Shape& x = inputs[0].shape;
  check(x.rank() >= 2 && x.back() % groups_ == 0, "input {} does not divide into {} groups of channels", x.to_string(),
        groups_);
  for (const TensorType& parameter : inputs.subspan(1)) {
    check(parameter.shape == Shape{x.back()},
          "input {} and weight or bias {} do not fit; allowed are [B, ..., C] and [C]", x.to_string(),
          parameter.shape.to_string());
  }
  return {inputs[0]};
}

void GroupNormOp::reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const {
  const RefTensor& x = inputs[0];
  const std::int64_t channels = x.shape.back();
  const std::int64_t per_group = channels / groups_;
  const std::int64_t positions = x.shape.rows() / x.shape[0];
  const auto count = static_cast<double>(positions * per_group);
  for (std::int64_t b = 0; b < x.shape[0]; ++b) {
    for (std::int64_t g = 0; g < groups_; ++g) {
      const auto visit = [&](auto&& each) {
        for (std::int64_t p = 0; p < positions; ++p) {
          for (std::int64_t c = g * per_group; c < (g + 1) * per_group; ++c)
            each((b * positions + p) * channels + c, c);
        }
      };
      double sum = 0;
      visit([&](std::int64_t i, std::int64_t) { sum += x.values[i]; });
      const double mean = sum / count;
      double squares = 0;
      visit([&](std::int64_t i, std::int64_t) { squares += (x.values[i] - mean) * (x.values[i] - mean); });
      const double scale = 1.0 / std::sqrt(squares / count + eps_);
      visit([&](std::int64_t i, std::int64_t c) {
        outputs[0].values[i] = (x.values[i] - mean) * scale * inputs[1].values[c] + inputs[2].values[c];
      });
    }
  }
}

}  // namespace rondo
