// "cudnn": cuDNN's scaled dot product attention.
#include <fmt/format.h>

#include <array>
#include <unordered_map>

#include "backends/cuda/cuda_device.h"
#include "backends/cuda/cudnn_library.h"
#include "backends/cuda/kernels/cuda_kernel.h"
#include "rondo/error.h"

namespace rondo::cuda {
namespace {

namespace fe = cudnn_frontend;

enum Operand : std::int64_t { kQuery = 1, kKey, kValue, kOutput, kStats };

/// [B, S, N, D] as cuDNN counts: [B, N, S, D].
std::vector<std::int64_t> by_heads(const Shape& s) { return {s[0], s[2], s[1], s[3]}; }

class CudnnAttentionRunner final : public AttentionRunner {
 public:
  explicit CudnnAttentionRunner(const AttentionProblem& problem) : problem_(problem) {}
  std::size_t scratch_bytes() const override { return 0; }

  void run(const AttentionCall& call, std::span<std::byte> /*scratch*/) const override {
    if (call.output.elements() == 0) return;
    const CudaRun run(*call.device, *call.stream);
    const cudnnHandle_t handle = cudnn_handle(run.handle());
    const bool partial = call.output.dtype() != call.query.dtype();
    const Tensor output = partial ? run.temporary(call.output.shape(), call.query.dtype()) : call.output;
    const std::shared_ptr<fe::graph::Graph> graph = graph_for(handle, call, output);
    std::int64_t workspace_bytes = 0;
    check_cudnn(graph->get_workspace_size(workspace_bytes), "get_workspace_size");
    Tensor workspace = run.temporary({std::max<std::int64_t>(workspace_bytes, 1)}, DType::u8);
    const auto pointer = [](const Tensor& tensor) { return const_cast<void*>(tensor.data()); };
    std::unordered_map<std::int64_t, void*> operands{{kQuery, pointer(call.query)},
                                                     {kKey, pointer(call.key)},
                                                     {kValue, pointer(call.value)},
                                                     {kOutput, pointer(output)}};
    if (call.lse.defined()) operands[kStats] = pointer(call.lse);
    check_cudnn(graph->execute(handle, operands, workspace.data()), "execute");
    if (partial) copy(view_of(output), view_of(call.output), run.handle());
  }

 private:
  /// Made for the strides of the first call; a session's calls are all alike.
  std::shared_ptr<fe::graph::Graph> graph_for(cudnnHandle_t handle, const AttentionCall& call,
                                              const Tensor& output) const {
    std::string key = fmt::format("{}", call.lse.defined());
    for (const Tensor* operand : {&call.query, &call.key, &call.value, &output})
      key += operand->shape().to_string() + operand->strides().to_string();
    const std::lock_guard lock(mutex_);
    std::shared_ptr<fe::graph::Graph>& graph = graphs_[key];
    if (graph == nullptr) graph = build(handle, call, output);
    return graph;
  }

  std::shared_ptr<fe::graph::Graph> build(cudnnHandle_t handle, const AttentionCall& call, const Tensor& output) const {
    auto graph = std::make_shared<fe::graph::Graph>();
    const fe::DataType_t type = problem_.dtype == DType::bf16 ? fe::DataType_t::BFLOAT16 : fe::DataType_t::HALF;
    graph->set_io_data_type(type)
        .set_intermediate_data_type(fe::DataType_t::FLOAT)
        .set_compute_data_type(fe::DataType_t::FLOAT);
    const auto operand = [&](const char* name, Operand id, const Tensor& tensor) {
      return graph->tensor(fe::graph::Tensor_attributes()
                               .set_name(name)
                               .set_uid(id)
                               .set_dim(by_heads(tensor.shape()))
                               .set_stride(by_heads(tensor.strides())));
    };
    auto attributes = fe::graph::SDPA_attributes().set_name("attention").set_generate_stats(call.lse.defined());
    attributes.set_attn_scale(call.scale);
    if (call.causal) {
      attributes.set_diagonal_alignment(fe::DiagonalAlignment_t::BOTTOM_RIGHT);
      attributes.set_diagonal_band_right_bound(0);
    }
    auto [result, stats] = graph->sdpa(operand("query", kQuery, call.query), operand("key", kKey, call.key),
                                       operand("value", kValue, call.value), attributes);
    result->set_output(true).set_uid(kOutput).set_dim(by_heads(output.shape())).set_stride(by_heads(output.strides()));
    if (call.lse.defined()) {
      const Shape& s = call.lse.shape();
      stats->set_output(true)
          .set_uid(kStats)
          .set_data_type(fe::DataType_t::FLOAT)
          .set_dim({s[0], s[1], s[2], 1})
          .set_stride({call.lse.strides()[0], call.lse.strides()[1], 1, 1});
    }
    check_cudnn(graph->build(handle, {fe::HeurMode_t::A}), "build");
    return graph;
  }

  AttentionProblem problem_;
  mutable std::mutex mutex_;
  mutable std::map<std::string, std::shared_ptr<fe::graph::Graph>> graphs_;
};

class CudnnAttention final : public AttentionKernel {
 public:
  std::string_view name() const override { return "cudnn"; }
  std::string_view description() const override {
    return "cuDNN's fused attention: bfloat16 and float16, causal, GQA, LSE, head dims to 128 (256 on Hopper)";
  }
  DeviceKind device() const override { return DeviceKind::cuda; }
  bool rounds_weights() const override { return true; }
  AttentionRefusal unavailable() const override {
    if (!cudnn_missing().empty()) return cudnn_missing();
    return no_gpu();
  }
  AttentionRefusal supports(const AttentionProblem& p) const override {
    if (p.dtype == DType::f32) return "takes bfloat16 and float16 only";
    if (p.mask != MaskKind::none) return "takes no mask";
    if (p.varlen) return "takes sequences of one length only";
    if (p.head_dim % 8 != 0 || p.value_dim % 8 != 0) return "takes head dims in multiples of 8 only";
    cudaDeviceProp properties{};
    if (cudaGetDeviceProperties(&properties, p.device.index) != cudaSuccess) return "the device does not answer";
    const std::int64_t widest = properties.major >= 9 ? 256 : 128;
    if (p.head_dim > widest || p.value_dim > widest) return fmt::format("takes head dims up to {} only here", widest);
    if (properties.major < 8) return "needs compute capability 8.0";
    if (p.queries == 0 || p.keys == 0) return "takes no empty sequences";
    if (p.causal && p.queries > p.keys) return "takes no queries that see nothing";
    return std::nullopt;
  }
  std::unique_ptr<AttentionRunner> make(const AttentionProblem& problem, const AttentionTiling& /*tiling*/,
                                        int /*threads*/) const override {
    return std::make_unique<CudnnAttentionRunner>(problem);
  }
};

}  // namespace

std::shared_ptr<const AttentionKernel> cudnn_attention_kernel() { return std::make_shared<CudnnAttention>(); }

}  // namespace rondo::cuda
