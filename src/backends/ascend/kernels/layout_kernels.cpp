// Moves without arithmetic, all by InplaceCopy, which takes views of any strides on both sides.
#include <array>

#include "backends/ascend/kernels/acl_kernel.h"
#include "ops/layout.h"

namespace rondo::ascend {
namespace {

Refusal supports(const KernelRequest& request) { return refuse_unless(request, 0, {kCopy.name}); }

/// Of an input whose strides allow no view.
std::unique_ptr<Kernel> make_reshape(const KernelRequest& /*request*/) {
  return make_acl_kernel([](AclCaller& acl, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    acl.copy(inputs[0], outputs[0].reshaped(inputs[0].shape()));
  });
}

std::unique_ptr<Kernel> make_concat(const KernelRequest& request) {
  return make_acl_kernel([axis = static_cast<const ConcatOp&>(request.op).axis()](
                             AclCaller& acl, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    std::int64_t begin = 0;
    for (const Tensor& part : inputs) {
      const std::int64_t end = begin + part.shape()[axis];
      if (part.elements() > 0) acl.copy(part, outputs[0].sliced(axis, begin, end));
      begin = end;
    }
  });
}

/// [B, H, 1, W, 1, C] repeats into [B, H, 2, W, 2, C].
std::unique_ptr<Kernel> make_upsample(const KernelRequest& /*request*/) {
  return make_acl_kernel([](AclCaller& acl, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    const Shape& s = inputs[0].shape();
    const Shape& strides = inputs[0].strides();
    const Tensor each = inputs[0].restrided({s[0], s[1], 1, s[2], 1, s[3]},
                                            {strides[0], strides[1], strides[1], strides[2], strides[2], strides[3]});
    acl.copy(each, outputs[0].reshaped({s[0], s[1], 2, s[2], 2, s[3]}));
  });
}

Refusal supports_dense_output(const KernelRequest& request) {
  if (!request.outputs[0].is_dense()) return "gives dense tensors only";
  return supports(request);
}

constexpr std::array kEntries{
    KernelEntry{"reshape", "copy", false, supports_dense_output, make_reshape},
    KernelEntry{"concat", "copy", false, supports, make_concat},
    KernelEntry{"upsample_nearest", "copy", false, supports_dense_output, make_upsample},
};

}  // namespace

std::span<const KernelEntry> layout_kernels() { return kEntries; }

}  // namespace rondo::ascend
