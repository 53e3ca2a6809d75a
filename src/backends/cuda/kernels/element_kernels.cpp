// Operators that look at one element at a time, modulation and gates.
#include <array>

#include "backends/cuda/kernels/cuda_kernel.h"
#include "ops/elementwise.h"
#include "ops/modulation.h"

namespace rondo::cuda {
namespace {

std::unique_ptr<Kernel> make_activation(const KernelRequest& request) {
  return make_cuda_kernel([kind = activation_of(static_cast<const ActivationOp&>(request.op).kind())](
                              const CudaRun& run, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    activate(kind, rows_of(inputs[0]), rows_of(outputs[0]), run.handle());
  });
}

std::unique_ptr<Kernel> make_swiglu(const KernelRequest& /*request*/) {
  return make_cuda_kernel([](const CudaRun& run, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    swiglu(rows_of(inputs[0]), rows_of(outputs[0]), run.handle());
  });
}

std::unique_ptr<Kernel> make_binary(const KernelRequest& request) {
  const bool adds = static_cast<const BinaryOp&>(request.op).kind() == BinaryKind::add;
  return make_cuda_kernel([kind = adds ? Binary::add : Binary::multiply](
                              const CudaRun& run, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    const Shape& shape = inputs[0].shape();
    combine(kind, view_of(inputs[0]), repeated_view(inputs[1], shape), view_of(outputs[0]), run.handle());
  });
}

std::unique_ptr<Kernel> make_cast(const KernelRequest& /*request*/) {
  return make_cuda_kernel([](const CudaRun& run, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    copy(view_of(inputs[0]), view_of(outputs[0]), run.handle());
  });
}

std::unique_ptr<Kernel> make_modulate(const KernelRequest& /*request*/) {
  return make_cuda_kernel([](const CudaRun& run, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    modulate(rows_of(inputs[0]), modulation_of(inputs[1]), modulation_of(inputs[2]), inputs[0].shape()[1],
             rows_of(outputs[0]), run.handle());
  });
}

std::unique_ptr<Kernel> make_gated_add(const KernelRequest& /*request*/) {
  return make_cuda_kernel([](const CudaRun& run, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    gated_add(rows_of(inputs[0]), modulation_of(inputs[1]), rows_of(inputs[2]), inputs[0].shape()[1],
              rows_of(outputs[0]), run.handle());
  });
}

Refusal supports_rows(const KernelRequest& request) { return refuse_unless_rows(request, 1); }
Refusal supports_gate(const KernelRequest& request) {
  if (request.inputs[2].prototype.dtype() != request.inputs[0].prototype.dtype())
    return "takes inputs of one dtype only";
  return refuse_unless_rows(request, 1);
}
Refusal supports_binary(const KernelRequest& request) {
  if (request.inputs[0].prototype.dtype() != request.inputs[1].prototype.dtype())
    return "takes inputs of one dtype only";
  return refuse_unless_rows(request, 1);
}
Refusal supports_cast(const KernelRequest& request) {
  const DType to = request.outputs[0].dtype();
  if (to != DType::f32 && to != DType::bf16 && to != DType::f16) return "gives float32, bfloat16 and float16 only";
  return refuse_unless_rows(request, 1);
}

constexpr std::array kEntries{
    KernelEntry{"activation", "elements", false, supports_rows, make_activation},
    KernelEntry{"swiglu", "elements", false, supports_rows, make_swiglu},
    KernelEntry{"add", "elements", false, supports_binary, make_binary},
    KernelEntry{"multiply", "elements", false, supports_binary, make_binary},
    KernelEntry{"cast", "elements", false, supports_cast, make_cast},
    KernelEntry{"modulate", "elements", false, supports_rows, make_modulate},
    KernelEntry{"gated_add", "elements", false, supports_gate, make_gated_add},
};

}  // namespace

std::span<const KernelEntry> element_kernels() { return kEntries; }

}  // namespace rondo::cuda
