// Norms, alone and with what comes before or after them, rotary embedding.
#include <array>

#include "backends/cuda/kernels/cuda_kernel.h"
#include "ops/fused_norms.h"
#include "ops/norms.h"
#include "ops/rope.h"

namespace rondo::cuda {
namespace {

Refusal supports_norm(const KernelRequest& request, std::size_t data_inputs) {
  if (request.inputs[0].prototype.shape().back() > kWidestNorm) return "takes rows of up to 8192 elements only";
  return refuse_unless_rows(request, data_inputs);
}

Tensor optional_parameter(const KernelRequest& request, std::size_t index) {
  return request.inputs.size() > index ? stored_parameter(request, index, DType::f32) : Tensor();
}

/// Of a run: input `index`, stored or given; undefined where there is none.
Tensor parameter_of(const Tensor& known, std::span<const Tensor> inputs, std::size_t index) {
  return inputs.size() > index ? parameter_or(known, inputs[index]) : Tensor();
}

std::unique_ptr<Kernel> make_rms_norm(const KernelRequest& request) {
  return make_cuda_kernel([eps = static_cast<float>(static_cast<const RmsNormOp&>(request.op).eps()),
                           weight = optional_parameter(request, 1)](const CudaRun& run, std::span<const Tensor> inputs,
                                                                    std::span<Tensor> outputs) {
    rms_norm(rows_of(inputs[0]), {}, vector_of(parameter_of(weight, inputs, 1)), eps, rows_of(outputs[0]), {},
             run.handle());
  });
}

std::unique_ptr<Kernel> make_add_rms_norm(const KernelRequest& request) {
  return make_cuda_kernel([eps = static_cast<float>(static_cast<const AddRmsNormOp&>(request.op).eps()),
                           weight = optional_parameter(request, 2)](const CudaRun& run, std::span<const Tensor> inputs,
                                                                    std::span<Tensor> outputs) {
    rms_norm(rows_of(inputs[0]), rows_of(inputs[1]), vector_of(parameter_of(weight, inputs, 2)), eps,
             rows_of(outputs[0]), rows_of(outputs[1]), run.handle());
  });
}

std::unique_ptr<Kernel> make_layer_norm(const KernelRequest& request) {
  return make_cuda_kernel([eps = static_cast<float>(static_cast<const LayerNormOp&>(request.op).eps()),
                           weight = optional_parameter(request, 1), bias = optional_parameter(request, 2)](
                              const CudaRun& run, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    layer_norm(rows_of(inputs[0]), vector_of(parameter_of(weight, inputs, 1)), vector_of(parameter_of(bias, inputs, 2)),
               {}, {}, 1, eps, rows_of(outputs[0]), run.handle());
  });
}

std::unique_ptr<Kernel> make_adaptive_norm(const KernelRequest& request) {
  return make_cuda_kernel([eps = static_cast<float>(static_cast<const LayerNormScaleShiftOp&>(request.op).eps()),
                           weight = optional_parameter(request, 3), bias = optional_parameter(request, 4)](
                              const CudaRun& run, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    layer_norm(rows_of(inputs[0]), vector_of(parameter_of(weight, inputs, 3)), vector_of(parameter_of(bias, inputs, 4)),
               modulation_of(inputs[1]), modulation_of(inputs[2]), inputs[0].shape()[1], eps, rows_of(outputs[0]),
               run.handle());
  });
}

RotaryTables tables_of(const Tensor& cos, const Tensor& sin, RotaryMode mode) {
  return {vector_of(cos), vector_of(sin), cos.shape()[1], cos.strides()[0], mode == RotaryMode::interleaved};
}

std::unique_ptr<Kernel> make_rope(const KernelRequest& request) {
  return make_cuda_kernel([mode = static_cast<const RopeOp&>(request.op).mode()](
                              const CudaRun& run, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    rotate(rows_of(inputs[0]), tables_of(inputs[1], inputs[2], mode), false, {}, 0, rows_of(outputs[0]), run.handle());
  });
}

std::unique_ptr<Kernel> make_rms_norm_rope(const KernelRequest& request) {
  const auto& op = static_cast<const RmsNormRopeOp&>(request.op);
  return make_cuda_kernel(
      [mode = op.mode(), eps = static_cast<float>(op.eps()), weight = optional_parameter(request, 3)](
          const CudaRun& run, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
        rotate(rows_of(inputs[0]), tables_of(inputs[1], inputs[2], mode), true,
               vector_of(parameter_of(weight, inputs, 3)), eps, rows_of(outputs[0]), run.handle());
      });
}

Refusal supports_one(const KernelRequest& request) { return supports_norm(request, 1); }
Refusal supports_sum(const KernelRequest& request) { return supports_norm(request, 2); }
Refusal supports_rotation(const KernelRequest& request) {
  if (request.inputs[0].prototype.shape().rank() != 4) return "takes four axes only";
  for (const std::size_t table : {1, 2}) {
    const Tensor& values = request.inputs[table].prototype;
    if (values.strides()[1] != 1) return "takes tables with dense rows only";
    if (values.strides()[0] != request.inputs[1].prototype.strides()[0]) return "takes tables of one layout only";
  }
  return refuse_unless_rows(request, 1);
}

constexpr std::array kEntries{
    KernelEntry{"rms_norm", "rows", true, supports_one, make_rms_norm},
    KernelEntry{"add_rms_norm", "rows", true, supports_sum, make_add_rms_norm},
    KernelEntry{"layer_norm", "rows", true, supports_one, make_layer_norm},
    KernelEntry{"layernorm_scale_shift", "rows", true, supports_one, make_adaptive_norm},
    KernelEntry{"rope", "rows", false, supports_rotation, make_rope},
    KernelEntry{"rms_norm_rope", "rows", true, supports_rotation, make_rms_norm_rope},
};

}  // namespace

std::span<const KernelEntry> norm_kernels() { return kEntries; }

}  // namespace rondo::cuda
