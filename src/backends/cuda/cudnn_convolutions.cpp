// Convolutions by cuDNN, through its front end.
#include <unordered_map>

#include "backends/cuda/cudnn_graphs.h"

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

class CudnnConvolution final : public Convolution {
 public:
  explicit CudnnConvolution(const ConvolutionShape& shape) : graph_(convolution_graph(shape)) {
    check_cudnn(graph_->build(cudnn_handle(nullptr), {fe::HeurMode_t::A, fe::HeurMode_t::FALLBACK}), "build");
  }

  void run(const CudaRun& run, const Tensor& x, const Tensor& weight, const Tensor& bias, Tensor y) const override {
    const auto pointer = [](const Tensor& tensor) { return const_cast<void*>(tensor.data()); };
    std::unordered_map<std::int64_t, void*> operands{{kX, pointer(x)}, {kWeight, pointer(weight)}, {kY, y.data()}};
    if (bias.defined()) operands[kBias] = pointer(bias);
    execute_cudnn(*graph_, run, operands);
  }

 private:
  std::shared_ptr<fe::graph::Graph> graph_;
};

}  // namespace

std::shared_ptr<fe::graph::Graph> convolution_graph(const ConvolutionShape& c) {
  const Shape& w = c.weight;
  auto graph = std::make_shared<fe::graph::Graph>();
  graph->set_io_data_type(cudnn_dtype(c.dtype))
      .set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT);
  const auto source = graph->tensor(fe::graph::Tensor_attributes()
                                        .set_name("x")
                                        .set_uid(kX)
                                        .set_dim(picture_dims(c.x))
                                        .set_stride(picture_strides(c.x)));
  // [O, Kh, Kw, C] in memory, counted as [O, C, Kh, Kw].
  const auto filter = graph->tensor(fe::graph::Tensor_attributes()
                                        .set_name("weight")
                                        .set_uid(kWeight)
                                        .set_dim({w[0], w[1], w[2], w[3]})
                                        .set_stride({w[1] * w[2] * w[3], 1, w[3] * w[1], w[1]}));
  auto attributes = fe::graph::Conv_fprop_attributes();
  attributes.set_pre_padding({c.padding.top, c.padding.left});
  attributes.set_post_padding({c.padding.bottom, c.padding.right});
  attributes.set_stride({c.stride, c.stride}).set_dilation({1, 1});
  auto result = graph->conv_fprop(source, filter, attributes);
  if (c.has_bias) {
    const auto bias = graph->tensor(fe::graph::Tensor_attributes()
                                        .set_name("bias")
                                        .set_uid(kBias)
                                        .set_dim({1, w[0], 1, 1})
                                        .set_stride({w[0], 1, w[0], w[0]}));
    result = graph->pointwise(result, bias, fe::graph::Pointwise_attributes().set_mode(fe::PointwiseMode_t::ADD));
  }
  result->set_output(true).set_uid(kY).set_dim(picture_dims(c.y)).set_stride(picture_strides(c.y));
  return graph;
}

const std::string& convolutions_missing() { return cudnn_missing(); }

std::unique_ptr<const Convolution> make_convolution(const ConvolutionShape& shape) {
  return std::make_unique<CudnnConvolution>(shape);
}

}  // namespace rondo::cuda
