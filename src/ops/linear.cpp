#include "ops/linear.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/float_formats.h"
#include "ops/modulation.h"

namespace rondo {
namespace {

double rounded(double value, const LinearQuantization& q) {
  if (!q.is_fp8()) return std::nearbyint(value);
  return static_cast<double>(f8_e4m3_to_float(float_to_f8_e4m3(static_cast<float>(value))));
}

/// The input as a quantised layer sees it: smoothed, turned, and each row, or all, in 8 bits where the format says so.
RefTensor quantized_input(const RefTensor& x, const LinearQuantization& q) {
  RefTensor result = x;
  const auto width = static_cast<std::size_t>(x.shape.back());
  for (std::size_t first = 0; first < result.values.size(); first += width) {
    const std::span row = std::span(result.values).subspan(first, width);
    for (std::size_t k = 0; q.smooth.defined() && k < width; ++k)
      row[k] /= static_cast<double>(q.smooth.as<float>()[k]);
    if (q.rotation != 0) rotate_row(row, q.rotation);
  }
  if (!q.quantizes_input()) return result;
  const std::size_t share = q.format == LinearFormat::fp8_per_tensor ? result.values.size() : width;
  for (std::size_t first = 0; first < result.values.size(); first += share) {
    const std::span values = std::span(result.values).subspan(first, share);
    double largest = 0;
    for (const double value : values) largest = std::max(largest, std::abs(value));
    const double scale = largest / (q.is_fp8() ? static_cast<double>(kE4m3Limit) : kInputLimit);
    for (double& value : values) value = scale > 0 ? rounded(value / scale, q) * scale : 0;
  }
  return result;
}

/// The weight that the quantised one stands for, in the turned and smoothed inputs' terms.
RefTensor quantized_weight(const RefTensor& weight, const LinearQuantization& q) {
  Tensor plain = Tensor::empty(weight.shape, DType::f32);
  std::copy(weight.values.begin(), weight.values.end(), plain.as<float>());
  const QuantizedWeight quantized = quantize_weight(plain, q, 1);
  RefTensor result{weight.shape, {}};
  const std::int64_t group = q.group == 0 ? weight.shape[1] : q.group;
  for (std::int64_t i = 0; i < quantized.values.elements(); ++i) {
    result.values.push_back(static_cast<double>(quantized.value(i)) *
                            static_cast<double>(quantized.scales.as<float>()[i / group]));
  }
  return result;
}

}  // namespace

std::string LinearOp::attributes() const {
  std::vector<std::string> parts;
  if (activation_) parts.emplace_back(activation_name(*activation_));
  if (quantization_) parts.push_back(quantization_->to_string());
  if (gated_) parts.emplace_back("gated");
  return fmt::format("{}", fmt::join(parts, " "));
}

std::vector<TensorType> LinearOp::infer(std::span<const TensorType> inputs) const {
  check_count(inputs, gated_ ? 5 : 2, gated_ ? 5 : 3);
  check_floating(inputs);
  const TensorType& x = inputs[0];
  const Shape& weight = inputs[1].shape;
  check(x.shape.rank() >= 2 && weight.rank() == 2 && x.shape.back() == weight[1],
        "input {} and weight {} do not fit; allowed are [..., K] and [N, K]", x.shape.to_string(), weight.to_string());
  if (inputs.size() > 2) {
    check(inputs[2].shape == Shape{weight[0]}, "bias {} does not fit weight {}; allowed is [{}]",
          inputs[2].shape.to_string(), weight.to_string(), weight[0]);
  }
  if (quantization_) {
    const std::int64_t k = weight[1];
    const auto divides = [&](std::int64_t part) { return part == 0 || (part > 0 && k % part == 0); };
    check(divides(quantization_->group), "a group of {} does not divide {} inputs", quantization_->group, k);
    check(divides(quantization_->rotation) && (quantization_->rotation & (quantization_->rotation - 1)) == 0,
          "a rotation of {} is no power of two that divides {} inputs", quantization_->rotation, k);
    check(!quantization_->smooth.defined() || quantization_->smooth.shape() == Shape{k},
          "smoothing factors of shape {} are given for {} inputs", quantization_->smooth.shape().to_string(), k);
    check(quantization_->format != LinearFormat::w4a16 || k % 2 == 0, "w4a16 takes an even number of inputs, given {}",
          k);
  }
  TensorType result = x;
  result.shape[result.shape.rank() - 1] = weight[0];
  if (gated_) {
    check(inputs[kResidual].shape == result.shape && is_modulation_of(inputs[kGate].shape, result.shape) &&
              inputs[kGate].shape != result.shape,
          "gate {} and residual {} do not fit a product of {}; allowed are [B, N] or [B, 1, N], and [B, S, N]",
          inputs[kGate].shape.to_string(), inputs[kResidual].shape.to_string(), result.shape.to_string());
    check(inputs[kGate].dtype == x.dtype && inputs[kResidual].dtype == x.dtype,
          "gate in {} and residual in {} are given to an input in {}; allowed is one dtype",
          dtype_name(inputs[kGate].dtype), dtype_name(inputs[kResidual].dtype), dtype_name(x.dtype));
  }
  return {result};
}

void LinearOp::reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const {
  const RefTensor x = quantization_ ? quantized_input(inputs[0], *quantization_) : inputs[0];
  const RefTensor weight = quantization_ ? quantized_weight(inputs[1], *quantization_) : inputs[1];
  const std::int64_t rows = x.shape.rows();
  const std::int64_t in = weight.shape[1];
  const std::int64_t out = weight.shape[0];
  for (std::int64_t m = 0; m < rows; ++m) {
    for (std::int64_t n = 0; n < out; ++n) {
      double sum = inputs.size() > 2 ? inputs[2].values[n] : 0.0;
      for (std::int64_t k = 0; k < in; ++k) sum += x.values[m * in + k] * weight.values[n * in + k];
      if (activation_) sum = activation_value(*activation_, sum);
      const std::int64_t index = m * out + n;
      if (gated_) {
        sum = inputs[kResidual].values[index] + modulation_at(inputs[kGate], outputs[0].shape, index) * sum;
      }
      outputs[0].values[index] = sum;
    }
  }
}

double LinearOp::flops(std::span<const TensorType> inputs) const {
  return 2.0 * static_cast<double>(inputs[0].shape.elements()) * static_cast<double>(inputs[1].shape[0]);
}

bool LinearOp::falls_back_at(int step) const {
  return native_ != nullptr &&
         std::binary_search(quantization_->native_steps.begin(), quantization_->native_steps.end(), step);
}

}  // namespace rondo
