// Convolutions of channels-last pictures.
#include <fmt/format.h>

#include <array>

#include "backends/cuda/convolutions.h"

namespace rondo::cuda {
namespace {

Refusal supports(const KernelRequest& request) {
  if (!convolutions_missing().empty()) return convolutions_missing();
  if (request.inputs[1].weight.empty()) return "takes stored weights only";
  return refuse_unless_rows(request, 1);
}

/// The weight [O, C, Kh, Kw] with its channels last.
Tensor channels_last(const Tensor& stored, DType dtype) {
  const Shape& s = stored.shape();
  const Shape& strides = stored.strides();
  return stored.to(dtype)
      .restrided({s[0], s[2], s[3], s[1]}, {strides[0], strides[2], strides[3], strides[1]})
      .dense_copy();
}

std::unique_ptr<Kernel> make(const KernelRequest& request) {
  const DType dtype = request.inputs[0].prototype.dtype();
  const std::string form = fmt::format("channels last {}", dtype_name(dtype));
  const auto weight =
      request.weights.packed(request.inputs[1].weight, {form, {}, {}, request.home()},
                             [&](const Tensor& stored) { return std::vector{channels_last(stored, dtype)}; });
  const bool has_bias = request.inputs.size() > 2;
  use_device(*request.device);
  const auto& op = static_cast<const Conv2dOp&>(request.op);
  const std::shared_ptr<const Convolution> convolution =
      make_convolution({request.inputs[0].prototype.shape(), request.inputs[1].prototype.shape(),
                        request.outputs[0].shape(), op.stride(), op.padding(), dtype, has_bias});
  return make_cuda_kernel(
      [convolution, weight, has_bias, bias = has_bias ? stored_parameter(request, 2, dtype) : Tensor()](
          const CudaRun& run, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
        const Tensor& y = outputs[0];
        const Tensor result = y.is_dense() ? y : run.temporary(y.shape(), y.dtype());
        convolution->run(run, dense(run, inputs[0], y.dtype()), weight->parts[0],
                         has_bias ? parameter_or(bias, inputs[2]) : bias, result);
        if (!y.is_dense()) copy(view_of(result), view_of(y), run.handle());
      });
}

}  // namespace

std::span<const KernelEntry> conv2d_kernels() {
  static constexpr std::array kEntries{KernelEntry{"conv2d", "cudnn", true, supports, make}};
  return kEntries;
}

}  // namespace rondo::cuda
