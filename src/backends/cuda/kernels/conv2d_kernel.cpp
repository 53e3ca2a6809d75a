// Convolutions of channels-last pictures by cuDNN.
#include <array>
#include <unordered_map>

#include "backends/cuda/cuda_device.h"
#include "backends/cuda/cudnn_library.h"
#include "backends/cuda/kernels/cuda_kernel.h"
#include "ops/conv2d.h"

namespace rondo::cuda {
namespace {

namespace fe = cudnn_frontend;

enum Operand : std::int64_t { kX = 1, kWeight, kBias, kY };

fe::DataType_t cudnn_dtype(DType dtype) {
  if (dtype == DType::bf16) return fe::DataType_t::BFLOAT16;
  return dtype == DType::f16 ? fe::DataType_t::HALF : fe::DataType_t::FLOAT;
}

/// [B, H, W, C] in memory, counted as cuDNN counts: [B, C, H, W].
std::vector<std::int64_t> picture_dims(const Shape& s) { return {s[0], s[3], s[1], s[2]}; }
std::vector<std::int64_t> picture_strides(const Shape& s) {
  const Shape strides = s.dense_strides();
  return {strides[0], strides[3], strides[1], strides[2]};
}

Refusal supports(const KernelRequest& request) {
  if (!cudnn_missing().empty()) return cudnn_missing();
  if (!request.inputs[0].prototype.is_dense() || !request.outputs[0].is_dense()) return "takes dense pictures only";
  if (request.inputs[1].weight.empty()) return "takes stored weights only";
  return refuse_unless_rows(request, 1);
}

std::shared_ptr<fe::graph::Graph> build(const KernelRequest& request) {
  const auto& op = static_cast<const Conv2dOp&>(request.op);
  const Tensor& x = request.inputs[0].prototype;
  const Shape& w = request.inputs[1].prototype.shape();
  auto graph = std::make_shared<fe::graph::Graph>();
  graph->set_io_data_type(cudnn_dtype(x.dtype()))
      .set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT);
  const auto source = graph->tensor(fe::graph::Tensor_attributes()
                                        .set_name("x")
                                        .set_uid(kX)
                                        .set_dim(picture_dims(x.shape()))
                                        .set_stride(picture_strides(x.shape())));
  // [O, Kh, Kw, C] in memory, counted as [O, C, Kh, Kw].
  const auto filter = graph->tensor(fe::graph::Tensor_attributes()
                                        .set_name("weight")
                                        .set_uid(kWeight)
                                        .set_dim({w[0], w[1], w[2], w[3]})
                                        .set_stride({w[1] * w[2] * w[3], 1, w[3] * w[1], w[1]}));
  auto attributes = fe::graph::Conv_fprop_attributes();
  attributes.set_pre_padding({op.padding().top, op.padding().left});
  attributes.set_post_padding({op.padding().bottom, op.padding().right});
  attributes.set_stride({op.stride(), op.stride()}).set_dilation({1, 1});
  auto result = graph->conv_fprop(source, filter, attributes);
  if (request.inputs.size() > 2) {
    const auto bias = graph->tensor(fe::graph::Tensor_attributes()
                                        .set_name("bias")
                                        .set_uid(kBias)
                                        .set_dim({1, w[0], 1, 1})
                                        .set_stride({w[0], 1, w[0], w[0]}));
    result = graph->pointwise(result, bias, fe::graph::Pointwise_attributes().set_mode(fe::PointwiseMode_t::ADD));
  }
  const Shape& y = request.outputs[0].shape();
  result->set_output(true).set_uid(kY).set_dim(picture_dims(y)).set_stride(picture_strides(y));
  static_cast<const CudaRuntime&>(request.device->runtime()).use();
  check_cudnn(graph->build(cudnn_handle(nullptr), {fe::HeurMode_t::A, fe::HeurMode_t::FALLBACK}), "build");
  return graph;
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
  return make_cuda_kernel(
      [graph = build(request), weight, has_bias, bias = has_bias ? stored_parameter(request, 2, dtype) : Tensor()](
          const CudaRun& run, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
        const auto pointer = [](const Tensor& tensor) { return const_cast<void*>(tensor.data()); };
        std::unordered_map<std::int64_t, void*> operands{
            {kX, pointer(inputs[0])}, {kWeight, pointer(weight->parts[0])}, {kY, pointer(outputs[0])}};
        if (has_bias) operands[kBias] = pointer(parameter_or(bias, inputs[2]));
        std::int64_t workspace_bytes = 0;
        check_cudnn(graph->get_workspace_size(workspace_bytes), "get_workspace_size");
        Tensor workspace = run.temporary({std::max<std::int64_t>(workspace_bytes, 1)}, DType::u8);
        check_cudnn(graph->execute(cudnn_handle(run.handle()), operands, workspace.data()), "execute");
      });
}

}  // namespace

std::span<const KernelEntry> conv2d_kernels() {
  static constexpr std::array kEntries{KernelEntry{"conv2d", "cudnn", true, supports, make}};
  return kEntries;
}

}  // namespace rondo::cuda
