// Moves without arithmetic.
#include <array>

#include "backends/cuda/kernels/cuda_kernel.h"
#include "ops/layout.h"

namespace rondo::cuda {
namespace {

Refusal supports(const KernelRequest& request) {
  for (const KernelInput& input : request.inputs) {
    if (input.prototype.shape().rank() > View::kAxes) return "takes up to six axes only";
  }
  return std::nullopt;
}
Refusal supports_dense_output(const KernelRequest& request) {
  if (!request.outputs[0].is_dense()) return "gives dense tensors only";
  return supports(request);
}
Refusal supports_picture(const KernelRequest& request) {
  if (!request.inputs[0].prototype.is_dense()) return "takes dense pictures only";
  return supports_dense_output(request);
}

/// Of an input whose strides allow no view.
std::unique_ptr<Kernel> make_reshape(const KernelRequest& /*request*/) {
  return make_cuda_kernel([](const CudaRun& run, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    copy(view_of(inputs[0]), view_of(outputs[0].reshaped(inputs[0].shape())), run.handle());
  });
}

std::unique_ptr<Kernel> make_concat(const KernelRequest& request) {
  return make_cuda_kernel([axis = static_cast<const ConcatOp&>(request.op).axis()](
                              const CudaRun& run, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    std::int64_t begin = 0;
    for (const Tensor& part : inputs) {
      const std::int64_t end = begin + part.shape()[axis];
      if (part.elements() > 0) copy(view_of(part), view_of(outputs[0].sliced(axis, begin, end)), run.handle());
      begin = end;
    }
  });
}

/// [B, H, 1, W, 1, C] repeats into [B, H, 2, W, 2, C].
std::unique_ptr<Kernel> make_upsample(const KernelRequest& /*request*/) {
  return make_cuda_kernel([](const CudaRun& run, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    const Shape& s = inputs[0].shape();
    const Shape twice{s[0], s[1], 2, s[2], 2, s[3]};
    copy(repeated_view(inputs[0].reshaped({s[0], s[1], 1, s[2], 1, s[3]}), twice), view_of(outputs[0].reshaped(twice)),
         run.handle());
  });
}

constexpr std::array kEntries{
    KernelEntry{"reshape", "copy", false, supports_dense_output, make_reshape},
    KernelEntry{"concat", "copy", false, supports, make_concat},
    KernelEntry{"upsample_nearest", "copy", false, supports_picture, make_upsample},
};

}  // namespace

std::span<const KernelEntry> layout_kernels() { return kEntries; }

}  // namespace rondo::cuda
