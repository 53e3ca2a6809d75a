// Linear layers: products, floating or in 8 bits, and what follows them.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <functional>

#include "backends/cuda/products.h"
#include "ops/linear.h"

namespace rondo::cuda {
namespace {

const LinearOp& op_of(const KernelRequest& request) { return static_cast<const LinearOp&>(request.op); }

/// Of a product in floats.
Refusal refuse_product(const KernelRequest& request) {
  // 16-byte loads: what is not a multiple has no fast algorithm, and for some none at all.
  const Shape& weight = request.inputs[1].prototype.shape();
  const std::int64_t unit = request.inputs[0].prototype.dtype() == DType::f32 ? 1 : 8;
  if (weight[0] % unit != 0 || weight[1] % unit != 0)
    return fmt::format("takes inputs and outputs in multiples of {} only", unit);
  return refuse_unless_rows(request, 1);
}

Refusal supports(const KernelRequest& request) {
  if (op_of(request).quantization()) return "does not take quantised weights";
  return refuse_product(request);
}

Tensor as_rows(const Tensor& x) { return x.reshaped({x.shape().rows(), x.shape().back()}); }

/// Where a product goes: y itself where it can.
Tensor product_place(const CudaRun& run, const LinearOp& op, const Tensor& y) {
  return !op.gated() && y.is_dense() ? y : run.temporary(y.shape(), y.dtype());
}

/// What follows it: gate and residual, gaps between y's rows.
void finish(const CudaRun& run, const LinearOp& op, const Tensor& product, std::span<const Tensor> inputs,
            const Tensor& y) {
  if (product.data() == y.data()) return;
  if (!op.gated()) return copy(view_of(product), view_of(y), run.handle());
  gated_add(rows_of(inputs[LinearOp::kResidual]), modulation_of(inputs[LinearOp::kGate]), rows_of(product),
            y.shape()[1], rows_of(y), run.handle());
}

/// An operand of a product, as it is made from the run's inputs: dense, in the product's dtype.
using OperandSource = std::function<Tensor(const CudaRun& run, std::span<const Tensor> inputs)>;

std::unique_ptr<Kernel> make_product_kernel(const KernelRequest& request, OperandSource x_of, OperandSource w_of) {
  const LinearOp& op = op_of(request);
  const DType dtype = request.inputs[0].prototype.dtype();
  const bool has_bias = request.inputs.size() > 2;
  const Shape& weight_shape = request.inputs[1].prototype.shape();
  const bool gelu = op.activation() == ActivationKind::gelu_tanh;
  use_device(*request.device);
  const std::shared_ptr<const Product> product = make_product(
      {request.inputs[0].prototype.shape().rows(), weight_shape[1], weight_shape[0], dtype, has_bias, gelu});
  return make_cuda_kernel([&op, dtype, has_bias, gelu, product, x_of = std::move(x_of), w_of = std::move(w_of),
                           bias = has_bias ? stored_parameter(request, 2, dtype) : Tensor()](
                              const CudaRun& run, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    const Tensor b = has_bias ? dense(run, parameter_or(bias, inputs[2]), dtype) : Tensor();
    const Tensor& y = outputs[0];
    const Tensor result = product_place(run, op, y);
    product->run(run, as_rows(x_of(run, inputs)), w_of(run, inputs), b, as_rows(result));
    if (op.activation() && !gelu)
      activate(activation_of(*op.activation()), rows_of(result), rows_of(result), run.handle());
    finish(run, op, result, inputs, y);
  });
}

std::unique_ptr<Kernel> make(const KernelRequest& request) {
  const DType dtype = request.inputs[0].prototype.dtype();
  return make_product_kernel(
      request, [dtype](const CudaRun& run, std::span<const Tensor> inputs) { return dense(run, inputs[0], dtype); },
      [dtype, weight = stored_parameter(request, 1, dtype)](const CudaRun& run, std::span<const Tensor> inputs) {
        return dense(run, parameter_or(weight, inputs[1]), dtype);
      });
}

/// A weight's integers, their scales, and what inputs are multiplied by before they meet them, where they are: the
/// smoothing's reciprocals and the rotation's signs (linear_quantization.h).
constexpr std::size_t kFactors = 2;

std::vector<Tensor> packed_parts(Tensor values, Tensor scales, const LinearQuantization& quantization,
                                 std::int64_t inputs) {
  std::vector<Tensor> parts{std::move(values), std::move(scales)};
  if (quantization.rotation == 0 && !quantization.smooth.defined()) return parts;
  Tensor factors = Tensor::empty({inputs}, DType::f32);
  for (std::int64_t k = 0; k < inputs; ++k) {
    factors.as<float>()[k] = quantization.rotation == 0 ? 1.0F : rotation_sign(k);
    if (quantization.smooth.defined()) factors.as<float>()[k] /= quantization.smooth.as<float>()[k];
  }
  parts.push_back(std::move(factors));
  return parts;
}

const float* factors_of(const PackedWeight& weight) {
  return weight.parts.size() > kFactors ? weight.parts[kFactors].as<float>() : nullptr;
}

/// How many elements are turned together.
std::int64_t parts_of(const LinearQuantization& quantization) {
  return std::max<std::int64_t>(quantization.rotation, 1);
}

Refusal supports_int8(const KernelRequest& request) {
  const auto& quantization = op_of(request).quantization();
  if (!quantization) return "takes quantised weights only";
  if (quantization->format != LinearFormat::w8a8) return "takes w8a8 only";
  if (quantization->group != 0) return "takes one scale an output only";
  if (request.inputs[1].weight.empty()) return "takes stored weights only";
  constexpr std::int64_t kUnit = 16;  // tensor cores' loads
  const Shape& weight = request.inputs[1].prototype.shape();
  if (weight[0] % kUnit != 0 || weight[1] % kUnit != 0)
    return fmt::format("takes inputs and outputs in multiples of {} only", kUnit);
  if (weight[1] > kWidestQuantized) return fmt::format("takes up to {} inputs only", kWidestQuantized);
  return refuse_unless_rows(request, 1);
}

std::unique_ptr<Kernel> make_int8(const KernelRequest& request) {
  const LinearOp& op = op_of(request);
  const LinearQuantization& quantization = *op.quantization();
  const bool has_bias = request.inputs.size() > 2;
  const Shape& weight_shape = request.inputs[1].prototype.shape();
  const std::string form = fmt::format("int8 rows and scales, {}", quantization.to_string());
  const auto weight =
      request.weights.packed(request.inputs[1].weight, {form, {}, {}, request.home()}, [&](const Tensor& stored) {
        const QuantizedWeight quantized = quantize_weight(stored, quantization, request.threads);
        return packed_parts(quantized.values, quantized.scales.reshaped({quantized.scales.elements()}), quantization,
                            weight_shape[1]);
      });
  use_device(*request.device);
  const std::shared_ptr<const Product> product =
      make_product({request.inputs[0].prototype.shape().rows(), weight_shape[1], weight_shape[0], DType::s8});
  return make_cuda_kernel([&op, has_bias, product, weight, parts = parts_of(quantization),
                           bias = has_bias ? stored_parameter(request, 2, DType::f32) : Tensor()](
                              const CudaRun& run, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    const Tensor& x = inputs[0];
    const Tensor& y = outputs[0];
    const std::int64_t rows = x.shape().rows();
    Tensor integers = run.temporary({rows, x.shape().back()}, DType::s8);
    Tensor row_scales = run.temporary({rows}, DType::f32);
    Tensor sums = run.temporary({rows, y.shape().back()}, DType::s32);
    quantize_rows(rows_of(x), factors_of(*weight), parts, integers.as<std::int8_t>(), row_scales.as<float>(),
                  run.handle());
    product->run(run, integers, weight->parts[0], {}, sums);
    const Tensor result = op.gated() ? product_place(run, op, y) : y;
    const Tensor& b = has_bias ? parameter_or(bias, inputs[2]) : bias;
    const std::optional<Activation> activation =
        op.activation() ? std::optional(activation_of(*op.activation())) : std::nullopt;
    dequantize(
        {sums.as<std::int32_t>(), row_scales.as<float>(), weight->parts[1].as<float>(), vector_of(b), activation},
        rows_of(result), run.handle());
    finish(run, op, result, inputs, y);
  });
}

Refusal supports_weight_only(const KernelRequest& request) {
  const auto& quantization = op_of(request).quantization();
  if (!quantization || quantization->quantizes_input()) return "takes w8a16 and w4a16 only";
  if (request.inputs[1].weight.empty()) return "takes stored weights only";
  const Shape& weight = request.inputs[1].prototype.shape();
  if (weight[1] > kWidestQuantized) return fmt::format("takes up to {} inputs only", kWidestQuantized);
  if (weight[1] % 2 != 0) return "takes an even number of inputs only";
  return refuse_product(request);
}

/// For memory: the weight becomes floats for each product.
std::unique_ptr<Kernel> make_weight_only(const KernelRequest& request) {
  const LinearQuantization& quantization = *op_of(request).quantization();
  const DType dtype = request.inputs[0].prototype.dtype();
  const Shape shape = request.inputs[1].prototype.shape();
  const bool halves = quantization.format == LinearFormat::w4a16;
  const std::string form = fmt::format("integers and scales, {}", quantization.to_string());
  const auto weight =
      request.weights.packed(request.inputs[1].weight, {form, {}, {}, request.home()}, [&](const Tensor& stored) {
        const QuantizedWeight quantized = quantize_weight(stored, quantization, request.threads);
        return packed_parts(halves ? pack_int4(quantized.values) : quantized.values, quantized.scales, quantization,
                            shape[1]);
      });
  const std::int64_t group = quantization.group == 0 ? shape[1] : quantization.group;
  return make_product_kernel(
      request,
      [dtype, weight, parts = parts_of(quantization)](const CudaRun& run, std::span<const Tensor> inputs) {
        if (factors_of(*weight) == nullptr) return dense(run, inputs[0], dtype);
        Tensor turned = run.temporary(inputs[0].shape(), dtype);
        turn_rows(rows_of(inputs[0]), factors_of(*weight), parts, turned.data(), run.handle());
        return turned;
      },
      [dtype, shape, halves, group, weight](const CudaRun& run, std::span<const Tensor> /*inputs*/) {
        Tensor floats = run.temporary(shape, dtype);
        dequantize_weight(weight->parts[0].data(), halves, weight->parts[1].as<float>(), shape.elements(), group,
                          floats.data(), number_of(dtype), run.handle());
        return floats;
      });
}

}  // namespace

std::span<const KernelEntry> linear_kernels() {
  static constexpr std::array kEntries{
      KernelEntry{"linear", "int8", true, supports_int8, make_int8},
      KernelEntry{"linear", "weight-only", true, supports_weight_only, make_weight_only},
      KernelEntry{"linear", "cublaslt", true, supports, make}};
  return kEntries;
}

}  // namespace rondo::cuda
