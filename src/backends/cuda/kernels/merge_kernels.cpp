// Partial attentions of a ring, put together.
#include <array>

#include "backends/cuda/kernels/cuda_kernel.h"

namespace rondo::cuda {
namespace {

Refusal supports(const KernelRequest& request) {
  for (const std::size_t lse : {1, 3}) {
    if (!request.inputs[lse].prototype.is_dense()) return "takes dense LSE only";
  }
  if (!request.outputs[1].is_dense()) return "gives dense LSE only";
  return refuse_unless_rows(request, 1);
}

std::unique_ptr<Kernel> make_merge(const KernelRequest& /*request*/) {
  return make_cuda_kernel([](const CudaRun& run, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    const Shape& shape = inputs[0].shape();
    merge_attention({rows_of(inputs[0]), inputs[1].as<float>(), rows_of(inputs[2]), inputs[3].as<float>(), shape[1],
                     shape[2], rows_of(outputs[0]), outputs[1].as<float>()},
                    run.handle());
  });
}

constexpr std::array kEntries{KernelEntry{"merge_attention", "rows", false, supports, make_merge}};

}  // namespace

std::span<const KernelEntry> merge_kernels() { return kEntries; }

}  // namespace rondo::cuda
