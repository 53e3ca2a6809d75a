// GroupNorm of channels-last pictures, whole or in rows on several ranks.
#include <array>

#include "backends/cuda/kernels/cuda_kernel.h"
#include "ops/group_moments.h"
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

Refusal supports_moments(const KernelRequest& request) {
  if (!request.inputs[0].prototype.is_dense()) return "takes dense pictures only";
  return refuse_unless_rows(request, 1);
}

std::unique_ptr<Kernel> make_moments(const KernelRequest& request) {
  return make_cuda_kernel([groups = static_cast<const GroupMomentsOp&>(request.op).groups()](
                              const CudaRun& run, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    if (inputs[0].elements() == 0) return fill(view_of(outputs[0]), 0, run.handle());
    group_moments(picture_of(inputs[0]), groups, outputs[0].as<float>(), run.handle());
  });
}

Refusal supports_by_moments(const KernelRequest& request) {
  if (static_cast<const GroupNormByMomentsOp&>(request.op).counts().size() > PartCounts::kMost)
    return "takes pictures of up to 64 ranks only";
  if (!request.inputs[1].prototype.is_dense()) return "takes dense moments only";
  return supports(request);
}

std::unique_ptr<Kernel> make_by_moments(const KernelRequest& request) {
  const auto& op = static_cast<const GroupNormByMomentsOp&>(request.op);
  PartCounts counts;
  for (const std::int64_t count : op.counts()) counts.positions[static_cast<std::size_t>(counts.count++)] = count;
  return make_cuda_kernel([counts, eps = static_cast<float>(op.eps()),
                           weight = stored_parameter(request, 2, DType::f32),
                           bias = stored_parameter(request, 3, DType::f32)](
                              const CudaRun& run, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    if (inputs[0].elements() == 0) return;
    const std::int64_t groups = inputs[1].shape()[2];
    Tensor joined = run.temporary({inputs[0].shape()[0], groups, 2}, DType::f32);
    group_norm_by_moments(picture_of(inputs[0]), groups, inputs[1].as<float>(), counts,
                          vector_of(parameter_or(weight, inputs[2])), vector_of(parameter_or(bias, inputs[3])), eps,
                          picture_of(outputs[0]), joined.as<float>(), run.handle());
  });
}

constexpr std::array kEntries{
    KernelEntry{"group_norm", "rows", true, supports, make},
    KernelEntry{"group_moments", "rows", false, supports_moments, make_moments},
    KernelEntry{"group_norm_by_moments", "rows", true, supports_by_moments, make_by_moments},
};

}  // namespace

std::span<const KernelEntry> group_norm_kernels() { return kEntries; }

}  // namespace rondo::cuda
