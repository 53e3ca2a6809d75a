// Rows by index or position.
#include <array>

#include "backends/cuda/kernels/cuda_kernel.h"
#include "ops/lookup.h"

namespace rondo::cuda {
namespace {

bool is_floating_number(DType dtype) { return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16; }

Refusal supports_embedding(const KernelRequest& request) {
  if (!is_floating_number(request.inputs[1].prototype.dtype()))
    return "takes float32, bfloat16 and float16 tables only";
  return std::nullopt;
}

std::unique_ptr<Kernel> make_embedding(const KernelRequest& request) {
  // The table stays as it is stored: it is the largest of all weights.
  const Tensor table = stored_parameter(request, 1, request.inputs[1].prototype.dtype());
  return make_cuda_kernel([table](const CudaRun& run, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    embed(view_of(inputs[0]), rows_of(parameter_or(table, inputs[1])), rows_of(outputs[0]), run.handle());
  });
}

Refusal supports_select(const KernelRequest& request) {
  if (!is_floating_number(request.inputs[0].prototype.dtype())) return "takes float32, bfloat16 and float16 only";
  return std::nullopt;
}

std::unique_ptr<Kernel> make_select_row(const KernelRequest& /*request*/) {
  return make_cuda_kernel([](const CudaRun& run, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    select_rows(view_of(inputs[0]), view_of(inputs[1]), rows_of(outputs[0]), run.handle());
  });
}

Refusal supports_bias(const KernelRequest& request) { return refuse_unless_rows(request, 1); }

/// The bucket of every pair of positions is known beforehand.
std::unique_ptr<Kernel> make_position_bias(const KernelRequest& request) {
  const auto& op = static_cast<const RelativePositionBiasOp&>(request.op);
  const std::int64_t length = request.outputs[0].shape()[2];
  const Tensor buckets = op.bucket_table(request.inputs[0].prototype.shape()[0]);
  const Tensor table = stored_parameter(request, 0, DType::f32);
  return make_cuda_kernel([table, length, known = request.device->upload(buckets)](
                              const CudaRun& run, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    position_bias(rows_of(parameter_or(table, inputs[0])), known.as<std::int32_t>(), length, view_of(outputs[0]),
                  run.handle());
  });
}

Refusal supports_sinusoid(const KernelRequest& request) {
  if (!request.inputs[0].prototype.is_dense()) return "takes dense timesteps only";
  return std::nullopt;
}

std::unique_ptr<Kernel> make_sinusoid(const KernelRequest& request) {
  const std::int64_t half = request.outputs[0].shape().back() / 2;
  return make_cuda_kernel([half, frequencies = request.device->upload(TimestepSinusoidOp::frequencies(2 * half))](
                              const CudaRun& run, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    sinusoid(inputs[0].as<float>(), frequencies.as<float>(), half, rows_of(outputs[0]), run.handle());
  });
}

constexpr std::array kEntries{
    KernelEntry{"embedding", "rows", true, supports_embedding, make_embedding},
    KernelEntry{"select_row", "rows", false, supports_select, make_select_row},
    KernelEntry{"relative_position_bias", "rows", true, supports_bias, make_position_bias},
    KernelEntry{"timestep_sinusoid", "rows", false, supports_sinusoid, make_sinusoid},
};

}  // namespace

std::span<const KernelEntry> lookup_kernels() { return kEntries; }

}  // namespace rondo::cuda
