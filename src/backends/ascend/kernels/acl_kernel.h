// A kernel made of calls of CANN's operators.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <utility>

#include "backends/ascend/acl_call.h"
#include "backends/kernel.h"
#include "ops/elementwise.h"

namespace rondo::ascend {

class AclKernel final : public Kernel {
 public:
  using Function = std::function<void(AclCaller& acl, std::span<const Tensor> inputs, std::span<Tensor> outputs)>;
  explicit AclKernel(Function function) : function_(std::move(function)) {}
  void run(const KernelArgs& args) const override {
    AclCaller acl(*args.device, *args.stream);
    function_(acl, args.inputs, args.outputs);
  }

 private:
  Function function_;
};

inline std::unique_ptr<Kernel> make_acl_kernel(AclKernel::Function function) {
  return std::make_unique<AclKernel>(std::move(function));
}

inline const SocCapabilities& capabilities_of(const KernelRequest& request) {
  return static_cast<const AscendRuntime&>(request.device->runtime()).capabilities();
}

/// The refusal that all share: dtypes that the chip does not compute in, operators that this CANN lacks.
Refusal refuse_unless(const KernelRequest& request, std::size_t data_inputs, std::initializer_list<const char*> calls);

/// A parameter in a run, in `dtype`: `known` as stored_parameter() gave it, else as it is given.
Tensor parameter_in(AclCaller& acl, const Tensor& known, const Tensor& given, DType dtype);

/// A modulation [B, D], [B, 1, D] or [B, S, D] beside x [B, S, D], with three axes.
Tensor with_token_axis(const Tensor& modulation);

/// The activation of x, of any strides, into y of any strides.
void activate(AclCaller& acl, ActivationKind kind, const Tensor& x, const Tensor& y);

// Each is defined in the file of its name.
std::span<const KernelEntry> linear_kernels();
std::span<const KernelEntry> wire_kernels();
std::span<const KernelEntry> norm_kernels();
std::span<const KernelEntry> element_kernels();
std::span<const KernelEntry> layout_kernels();
std::span<const KernelEntry> lookup_kernels();
std::span<const KernelEntry> merge_kernels();
std::span<const KernelEntry> picture_kernels();
std::span<const KernelEntry> group_moments_kernels();

}  // namespace rondo::ascend
