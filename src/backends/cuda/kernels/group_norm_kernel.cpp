// GroupNorm of channels-last pictures.
#include <array>

#include "backends/cuda/kernels/cuda_kernel.h"
#include "ops/norms.h"

namespace rondo::cuda {
namespace {

Refusal supports(const KernelRequest& request) {
  if (!request.inputs[0].prototype.is_dense() || !request.outputs[0].is_dense()) return "takes dense pictures only";
  return refuse_unless_rows(request, 1);
}

/// [B, ..., C] as [B, P, C], with the batch outermost.
RowView picture_of(const Tensor& x) {
  const Shape& s = x.shape();
  return rows_of(x.reshaped({s[0], 1, 1, x.elements() / (s[0] * s.back()), s.back()}));
}

std::unique_ptr<Kernel> make(const KernelRequest& request) {
  const auto& op = static_cast<const GroupNormOp&>(request.op);
  return make_cuda_kernel([groups = op.groups(), eps = static_cast<float>(op.eps()),
                           weight = stored_parameter(request, 1, DType::f32),
                           bias = stored_parameter(request, 2, DType::f32)](
                              const CudaRun& run, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    Tensor moments = run.temporary({inputs[0].shape()[0], groups, 2}, DType::f32);
    group_norm(picture_of(inputs[0]), groups, vector_of(parameter_or(weight, inputs[1])),
               vector_of(parameter_or(bias, inputs[2])), eps, picture_of(outputs[0]), moments.as<float>(),
               run.handle());
  });
}

}  // namespace

std::span<const KernelEntry> group_norm_kernels() {
  static constexpr std::array kEntries{KernelEntry{"group_norm", "rows", true, supports, make}};
  return kEntries;
}

}  // namespace rondo::cuda
