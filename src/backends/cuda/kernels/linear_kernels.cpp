// Linear layers: products, floating or in 8 bits, and what follows them.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <functional>

#include "backends/cuda/products.h"
#include "ops/linear.h"
#include "rondo/error.h"

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

/// The same, and the activation where the product did not take it.
void finish_product(const CudaRun& run, const LinearOp& op, bool activated, const Tensor& product,
                    std::span<const Tensor> inputs, const Tensor& y) {
  if (op.activation() && !activated)
    activate(activation_of(*op.activation()), rows_of(product), rows_of(product), run.handle());
  finish(run, op, product, inputs, y);
}

std::shared_ptr<const Product> product_of(const KernelRequest& request, const ProductShape& shape) {
  use_device(*request.device);
  std::shared_ptr<const Product> product = find_product(shape);
  if (product == nullptr)
    throw Unsupported(fmt::format("linear: there is no algorithm for {} x {} x {} in {}", shape.rows, shape.inputs,
                                  shape.outputs, dtype_name(shape.dtype)));
  return product;
}

/// An operand of a product, as it is made from the run's inputs: dense, in the product's dtype.
using OperandSource = std::function<Tensor(const CudaRun& run, std::span<const Tensor> inputs)>;

std::unique_ptr<Kernel> make_product_kernel(const KernelRequest& request, OperandSource x_of, OperandSource w_of) {
  const LinearOp& op = op_of(request);
  const DType dtype = request.inputs[0].prototype.dtype();
  const bool has_bias = request.inputs.size() > 2;
  const Shape& weight_shape = request.inputs[1].prototype.shape();
  const bool gelu = op.activation() == ActivationKind::gelu_tanh;
  const auto product = product_of(
      request, {request.inputs[0].prototype.shape().rows(), weight_shape[1], weight_shape[0], dtype, has_bias, gelu});
  return make_cuda_kernel([&op, dtype, has_bias, gelu, product, x_of = std::move(x_of), w_of = std::move(w_of),
                           bias = has_bias ? stored_parameter(request, 2, dtype) : Tensor()](
                              const CudaRun& run, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    const Tensor b = has_bias ? dense(run, parameter_or(bias, inputs[2]), dtype) : Tensor();
    const Tensor& y = outputs[0];
    const Tensor result = product_place(run, op, y);
    product->run(run, {as_rows(x_of(run, inputs)), w_of(run, inputs), b, as_rows(result)});
    finish_product(run, op, gelu, result, inputs, y);
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

/// A weight's values, their scales, and what inputs are multiplied by before they meet them, where they are: the
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

/// Of products in 8 bits.
Refusal refuse_quantized_product(const KernelRequest& request) {
  if (op_of(request).quantization()->group != 0) return "takes one scale an output only";
  if (request.inputs[1].weight.empty()) return "takes stored weights only";
  constexpr std::int64_t kUnit = 16;  // tensor cores' loads
  const Shape& weight = request.inputs[1].prototype.shape();
  if (weight[0] % kUnit != 0 || weight[1] % kUnit != 0)
    return fmt::format("takes inputs and outputs in multiples of {} only", kUnit);
  if (weight[1] > kWidestQuantized) return fmt::format("takes up to {} inputs only", kWidestQuantized);
  return refuse_unless_rows(request, 1);
}

Refusal supports_int8(const KernelRequest& request) {
  const auto& quantization = op_of(request).quantization();
  if (!quantization) return "takes quantised weights only";
  if (quantization->format != LinearFormat::w8a8) return "takes w8a8 only";
  return refuse_quantized_product(request);
}

Refusal supports_fp8(const KernelRequest& request) {
  const auto& quantization = op_of(request).quantization();
  if (!quantization || !quantization->is_fp8()) return "takes fp8 only";
  constexpr int kLeast = 89;
  if (capability_of(*request.device) < kLeast) return "needs compute capability 8.9: Ada, Hopper or later";
  return refuse_quantized_product(request);
}

/// A weight in 8 bits, rows and their scales, and what becomes of inputs before they meet it.
class QuantizedOperands {
 public:
  explicit QuantizedOperands(const KernelRequest& request)
      : quantization_(*op_of(request).quantization()), parts_(parts_of(quantization_)) {
    const std::int64_t inputs = request.inputs[1].prototype.shape()[1];
    const std::string form = fmt::format("rows in 8 bits and scales, {}", quantization_.to_string());
    weight_ =
        request.weights.packed(request.inputs[1].weight, {form, {}, {}, request.home()}, [&](const Tensor& stored) {
          const QuantizedWeight quantized = quantize_weight(stored, quantization_, request.threads);
          return packed_parts(quantized.values, quantized.scales.reshaped({quantized.scales.elements()}), quantization_,
                              inputs);
        });
  }

  DType dtype() const { return weight_->parts[0].dtype(); }
  bool per_tensor() const { return quantization_.format == LinearFormat::fp8_per_tensor; }

  /// The operands of a run but for bias and y. `row_scales` is room for a number each.
  ProductOperands of(const CudaRun& run, const Tensor& x, Tensor row_scales) const {
    Tensor values = run.temporary({x.shape().rows(), x.shape().back()}, dtype());
    QuantizedRows to{values.data(), dtype() == DType::f8_e4m3, row_scales.as<float>()};
    Tensor largest;
    if (per_tensor()) {
      largest = run.temporary({1}, DType::s32);
      auto* const bits = reinterpret_cast<std::uint32_t*>(largest.as<std::int32_t>());
      largest_magnitude(rows_of(x), factors_of(*weight_), parts_, bits, run.handle());
      to.largest = bits;
    }
    quantize_rows(rows_of(x), factors_of(*weight_), parts_, to, run.handle());
    return {values, weight_->parts[0], {}, {}, to.scales, weight_->parts[1].as<float>()};
  }

 private:
  LinearQuantization quantization_;
  std::int64_t parts_;
  std::shared_ptr<const PackedWeight> weight_;
};

/// The product gives sums; a kernel of ours makes results of them.
std::unique_ptr<Kernel> make_sums_kernel(const KernelRequest& request, QuantizedOperands operands) {
  const LinearOp& op = op_of(request);
  const bool has_bias = request.inputs.size() > 2;
  const Shape& weight_shape = request.inputs[1].prototype.shape();
  const ProductShape shape{request.inputs[0].prototype.shape().rows(), weight_shape[1], weight_shape[0],
                           operands.dtype()};
  return make_cuda_kernel([&op, has_bias, sums_dtype = shape.result_dtype(), product = product_of(request, shape),
                           operands = std::move(operands),
                           bias = has_bias ? stored_parameter(request, 2, DType::f32) : Tensor()](
                              const CudaRun& run, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    const Tensor& y = outputs[0];
    const std::int64_t rows = y.shape().rows();
    const Tensor row_scales = run.temporary({rows}, DType::f32);
    ProductOperands o = operands.of(run, inputs[0], row_scales);
    o.y = run.temporary({rows, y.shape().back()}, sums_dtype);
    product->run(run, o);
    const Tensor result = op.gated() ? product_place(run, op, y) : y;
    const Tensor& b = has_bias ? parameter_or(bias, inputs[2]) : bias;
    const std::optional<Activation> activation =
        op.activation() ? std::optional(activation_of(*op.activation())) : std::nullopt;
    dequantize({o.y.data(), number_of(sums_dtype), o.row_scales, o.column_scales, vector_of(b), activation},
               rows_of(result), run.handle());
    finish(run, op, result, inputs, y);
  });
}

std::unique_ptr<Kernel> make_int8(const KernelRequest& request) {
  return make_sums_kernel(request, QuantizedOperands(request));
}

/// The product scales its sums itself where the library can: to bfloat16 and float16, with a scale for each row on
/// Hopper. That saves a pass over sums in float32, a third of the time of FLUX's products on an H200 by their bytes.
std::unique_ptr<Kernel> make_fp8(const KernelRequest& request) {
  const LinearOp& op = op_of(request);
  QuantizedOperands operands(request);
  const DType dtype = request.inputs[0].prototype.dtype();
  const bool has_bias = request.inputs.size() > 2;
  const bool gelu = op.activation() == ActivationKind::gelu_tanh;
  const Shape& weight_shape = request.inputs[1].prototype.shape();
  std::shared_ptr<const Product> product;
  if (dtype != DType::f32) {
    use_device(*request.device);
    product = find_product(
        {request.inputs[0].prototype.shape().rows(), weight_shape[1], weight_shape[0], DType::f8_e4m3, has_bias, gelu,
         operands.per_tensor() ? ProductShape::Scales::per_tensor : ProductShape::Scales::per_row, dtype});
  }
  if (product == nullptr) return make_sums_kernel(request, std::move(operands));
  return make_cuda_kernel([&op, dtype, has_bias, gelu, product, operands = std::move(operands),
                           bias = has_bias ? stored_parameter(request, 2, dtype) : Tensor()](
                              const CudaRun& run, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    const Tensor& y = outputs[0];
    const Tensor row_scales = run.temporary({y.shape().rows()}, DType::f32);
    ProductOperands o = operands.of(run, inputs[0], row_scales);
    const Tensor result = product_place(run, op, y);
    o.bias = has_bias ? dense(run, parameter_or(bias, inputs[2]), dtype) : Tensor();
    o.y = as_rows(result);
    product->run(run, o);
    finish_product(run, op, gelu, result, inputs, y);
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
      KernelEntry{"linear", "fp8", true, supports_fp8, make_fp8},
      KernelEntry{"linear", "weight-only", true, supports_weight_only, make_weight_only},
      KernelEntry{"linear", "cublaslt", true, supports, make}};
  return kEntries;
}

}  // namespace rondo::cuda
