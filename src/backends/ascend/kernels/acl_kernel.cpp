#include "backends/ascend/kernels/acl_kernel.h"

#include <fmt/format.h>

namespace rondo::ascend {

Refusal refuse_unless(const KernelRequest& request, std::size_t data_inputs, std::initializer_list<const char*> calls) {
  const auto& runtime = static_cast<const AscendRuntime&>(request.device->runtime());
  bool has_bf16 = false;  // stored weights are converted before they come here
  for (const KernelInput& input : request.inputs)
    has_bf16 = has_bf16 || (input.weight.empty() && input.prototype.dtype() == DType::bf16);
  for (const Tensor& output : request.outputs) has_bf16 = has_bf16 || output.dtype() == DType::bf16;
  if (has_bf16 && !runtime.has_bf16()) return fmt::format("{} has no bfloat16", runtime.capabilities().name);
  for (std::size_t i = 0; i < data_inputs; ++i) {
    const DType dtype = request.inputs[i].prototype.dtype();
    if (dtype != DType::f32 && dtype != DType::bf16 && dtype != DType::f16)
      return "takes float32, bfloat16 and float16 only";
    if (dtype != request.inputs[0].prototype.dtype()) return "takes inputs of one dtype only";
  }
  for (const char* call : calls) {
    if (runtime.library().find(call) == nullptr) return fmt::format("this version of CANN has no {}", call);
  }
  return std::nullopt;
}

Tensor parameter_in(AclCaller& acl, const Tensor& known, const Tensor& given, DType dtype) {
  if (known.defined()) return known;
  if (given.dtype() == dtype) return given;
  Tensor narrow = acl.temporary(given.shape(), dtype);
  acl.copy(given, narrow);
  return narrow;
}

Tensor with_token_axis(const Tensor& modulation) {
  const Shape& s = modulation.shape();
  if (s.rank() == 3) return modulation;
  const Shape& strides = modulation.strides();
  return modulation.restrided({s[0], 1, s[1]}, {strides[0], strides[0], strides[1]});
}

void activate(AclCaller& acl, ActivationKind kind, const Tensor& x, const Tensor& y) {
  switch (kind) {
    case ActivationKind::gelu_tanh: return acl.call(kGelu, acl.tensor(x), 1, acl.tensor(y));
    case ActivationKind::gelu_erf: return acl.call(kGelu, acl.tensor(x), 0, acl.tensor(y));
    case ActivationKind::silu: return acl.call(kSilu, acl.tensor(x), acl.tensor(y));
    case ActivationKind::mish: return acl.call(kMish, acl.tensor(x), acl.tensor(y));
    case ActivationKind::relu: return acl.call(kRelu, acl.tensor(x), acl.tensor(y));
    case ActivationKind::quick_gelu: {
      constexpr double kSlope = 1.702;
      const Tensor gate = acl.temporary(x.shape(), x.dtype());
      acl.multiply_scalar(x, kSlope, gate);
      acl.call(kSigmoid, acl.tensor(gate), acl.tensor(gate));
      return acl.multiply(x, gate, y);
    }
  }
}

}  // namespace rondo::ascend
