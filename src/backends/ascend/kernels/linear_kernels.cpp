// Linear layers: products by Matmul and Addmm, in 8 bits by QuantMatmulV4.
#include <fmt/format.h>

#include <array>

#include "backends/ascend/kernels/acl_kernel.h"
#include "ops/linear.h"

namespace rondo::ascend {
namespace {

const LinearOp& op_of(const KernelRequest& request) { return static_cast<const LinearOp&>(request.op); }

Tensor as_rows(const Tensor& x) { return x.reshaped({x.shape().rows(), x.shape().back()}); }

/// What follows a product: activation, gate and residual, gaps between y's rows.
void finish(AclCaller& acl, const LinearOp& op, Tensor product, std::span<const Tensor> inputs, const Tensor& y) {
  if (op.activation() && !op.gated()) return activate(acl, *op.activation(), product, y);
  if (op.activation()) {
    const Tensor activated = acl.temporary(product.shape(), product.dtype());
    activate(acl, *op.activation(), product, activated);
    product = activated;
  }
  if (!op.gated()) return acl.copy(product, y);
  const Tensor gate = parameter_in(acl, {}, with_token_axis(inputs[LinearOp::kGate]), product.dtype());
  acl.multiply_add(inputs[LinearOp::kResidual], gate, product, y);
}

/// Whether y itself can take the product.
bool is_plain(const LinearOp& op, const Tensor& y) { return !op.gated() && !op.activation() && y.is_dense(); }

Refusal supports(const KernelRequest& request) {
  if (op_of(request).quantization()) return "does not take quantised weights";
  return refuse_unless(request, 1, {kMatmul.name, kAddmm.name, kAddcmul.name, kCopy.name});
}

std::unique_ptr<Kernel> make(const KernelRequest& request) {
  const LinearOp& op = op_of(request);
  const DType dtype = request.inputs[0].prototype.dtype();
  const bool has_bias = request.inputs.size() > 2;
  const Tensor weight = stored_parameter(request, 1, dtype);
  const Tensor bias = has_bias ? stored_parameter(request, 2, dtype) : Tensor();
  return make_acl_kernel(
      [&op, dtype, has_bias, weight, bias](AclCaller& acl, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
        const Tensor x = as_rows(acl.dense(inputs[0]));
        const Tensor w = parameter_in(acl, weight, inputs[1], dtype);
        const Tensor b = has_bias ? parameter_in(acl, bias, inputs[2], dtype) : Tensor();
        const Tensor& y = outputs[0];
        const Tensor product = is_plain(op, y) ? y : acl.temporary(y.shape(), dtype);
        acl.linear(x, w, b, as_rows(product));
        if (!is_plain(op, y)) finish(acl, op, product, inputs, y);
      });
}

Refusal supports_int8(const KernelRequest& request) {
  const auto& quantization = op_of(request).quantization();
  if (!quantization) return "takes quantised weights only";
  if (quantization->format != LinearFormat::w8a8) return "takes w8a8 only";
  if (quantization->group != 0) return "takes one scale an output only";
  if (quantization->rotation != 0) return "does not turn its inputs";
  if (request.inputs[1].weight.empty()) return "takes stored weights only";
  if (request.inputs[0].prototype.dtype() == DType::f32) return "takes bfloat16 and float16 only";
  if (!capabilities_of(request).bf16) return "needs Atlas A2 or later";
  return refuse_unless(request, 1, {kDynamicQuant.name, kQuantMatmulV4.name, kAddcmul.name, kCopy.name});
}

/// Factors by which the input is multiplied first: the other way round of how they are stored.
Tensor reciprocals(const Tensor& factors, DType dtype) {
  Tensor inverse = factors.to_float32();
  for (float& value : std::span(inverse.as<float>(), static_cast<std::size_t>(inverse.elements()))) value = 1 / value;
  return inverse.to(dtype);
}

std::unique_ptr<Kernel> make_int8(const KernelRequest& request) {
  const LinearOp& op = op_of(request);
  const LinearQuantization& quantization = *op.quantization();
  const DType dtype = request.inputs[0].prototype.dtype();
  const std::string form = fmt::format("int8 rows and scales for {}, {}", dtype_name(dtype), quantization.to_string());
  const auto weight =
      request.weights.packed(request.inputs[1].weight, {form, {}, {}, request.home()}, [&](const Tensor& stored) {
        const QuantizedWeight quantized = quantize_weight(stored, quantization, request.threads);
        std::vector<Tensor> parts{quantized.values, quantized.scales.reshaped({quantized.scales.elements()})};
        if (quantization.smooth.defined()) parts.push_back(reciprocals(quantization.smooth, dtype));
        return parts;
      });
  const bool has_bias = request.inputs.size() > 2;
  const Tensor bias = has_bias ? stored_parameter(request, 2, DType::f32) : Tensor();
  return make_acl_kernel(
      [&op, dtype, has_bias, weight, bias](AclCaller& acl, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
        Tensor x = as_rows(acl.dense(inputs[0]));
        constexpr std::size_t kSmooth = 2;
        if (weight->parts.size() > kSmooth) {
          const Tensor smoothed = acl.temporary(x.shape(), dtype);
          acl.multiply(x, weight->parts[kSmooth], smoothed);
          x = smoothed;
        }
        const Tensor integers = acl.temporary(x.shape(), DType::s8);
        const Tensor row_scales = acl.temporary({x.shape()[0]}, DType::f32);
        acl.call(kDynamicQuant, acl.tensor(x), nullptr, acl.tensor(integers), acl.tensor(row_scales));
        const Tensor b = has_bias ? parameter_in(acl, bias, inputs[2], DType::f32) : Tensor();
        const Tensor& y = outputs[0];
        const Tensor product = is_plain(op, y) ? y : acl.temporary(y.shape(), dtype);
        acl.call(kQuantMatmulV4, acl.tensor(integers), acl.tensor(weight->parts[0]), acl.tensor(weight->parts[1]),
                 nullptr, acl.tensor(row_scales), acl.tensor(b), false, true, acl.tensor(as_rows(product)));
        if (!is_plain(op, y)) finish(acl, op, product, inputs, y);
      });
}

}  // namespace

std::span<const KernelEntry> linear_kernels() {
  static constexpr std::array kEntries{KernelEntry{"linear", "quant-matmul", true, supports_int8, make_int8},
                                       KernelEntry{"linear", "matmul", true, supports, make}};
  return kEntries;
}

}  // namespace rondo::ascend
