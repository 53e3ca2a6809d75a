// Operators that look at one element at a time.
#include <array>

#include "backends/ascend/kernels/acl_kernel.h"
#include "ops/elementwise.h"

namespace rondo::ascend {
namespace {

Refusal supports_activation(const KernelRequest& request) {
  switch (static_cast<const ActivationOp&>(request.op).kind()) {
    case ActivationKind::gelu_tanh:
    case ActivationKind::gelu_erf: return refuse_unless(request, 1, {kGelu.name});
    case ActivationKind::quick_gelu:
      return refuse_unless(request, 1, {kSigmoid.name, kMultiply.name, kMultiplyScalar.name});
    case ActivationKind::silu: return refuse_unless(request, 1, {kSilu.name});
    case ActivationKind::mish: return refuse_unless(request, 1, {kMish.name});
    case ActivationKind::relu: return refuse_unless(request, 1, {kRelu.name});
  }
  return std::nullopt;
}

std::unique_ptr<Kernel> make_activation(const KernelRequest& request) {
  return make_acl_kernel([kind = static_cast<const ActivationOp&>(request.op).kind()](
                             AclCaller& acl, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    activate(acl, kind, inputs[0], outputs[0]);
  });
}

/// CANN's SwiGlu has the gate in front and takes dense rows only.
std::unique_ptr<Kernel> make_swiglu(const KernelRequest& /*request*/) {
  return make_acl_kernel([](AclCaller& acl, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    const std::size_t last = inputs[0].shape().rank() - 1;
    const std::int64_t width = inputs[0].shape().back() / 2;
    const Tensor gate = acl.temporary(outputs[0].shape(), inputs[0].dtype());
    acl.call(kSilu, acl.tensor(inputs[0].sliced(last, width, 2 * width)), acl.tensor(gate));
    acl.multiply(inputs[0].sliced(last, 0, width), gate, outputs[0]);
  });
}

std::unique_ptr<Kernel> make_binary(const KernelRequest& request) {
  const bool adds = static_cast<const BinaryOp&>(request.op).kind() == BinaryKind::add;
  return make_acl_kernel([adds](AclCaller& acl, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    if (adds) return acl.add(inputs[0], inputs[1], outputs[0]);
    acl.multiply(inputs[0], inputs[1], outputs[0]);
  });
}

std::unique_ptr<Kernel> make_cast(const KernelRequest& /*request*/) {
  return make_acl_kernel([](AclCaller& acl, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    acl.call(kCast, acl.tensor(inputs[0]), acl_dtype(outputs[0].dtype()), acl.tensor(outputs[0]));
  });
}

Refusal supports_swiglu(const KernelRequest& request) {
  return refuse_unless(request, 1, {kSilu.name, kMultiply.name});
}
Refusal supports_binary(const KernelRequest& request) { return refuse_unless(request, 2, {kAdd.name, kMultiply.name}); }
Refusal supports_cast(const KernelRequest& request) {
  const DType to = request.outputs[0].dtype();
  if (to != DType::f32 && to != DType::bf16 && to != DType::f16) return "gives float32, bfloat16 and float16 only";
  return refuse_unless(request, 1, {kCast.name});
}

constexpr std::array kEntries{
    KernelEntry{"activation", "elements", false, supports_activation, make_activation},
    KernelEntry{"swiglu", "silu-mul", false, supports_swiglu, make_swiglu},
    KernelEntry{"add", "elements", false, supports_binary, make_binary},
    KernelEntry{"multiply", "elements", false, supports_binary, make_binary},
    KernelEntry{"cast", "elements", false, supports_cast, make_cast},
};

}  // namespace

std::span<const KernelEntry> element_kernels() { return kEntries; }

}  // namespace rondo::ascend
