// Attention by cuDNN.
#include <fmt/format.h>

#include <array>
#include <unordered_map>

#include "backends/cuda/cuda_device.h"
#include "backends/cuda/cudnn_graphs.h"
#include "rondo/error.h"

namespace rondo::cuda {
namespace {

namespace fe = cudnn_frontend;
using TensorPointer = std::shared_ptr<fe::graph::Tensor_attributes>;

enum Operand : std::int64_t {
  kQuery = 1,
  kKey,
  kValue,
  kOutput,
  kStats,
  kQueryLengths,
  kKeyLengths,
  kQueryBegins,
  kKeyBegins,
  kValueBegins,
  kOutputBegins,
  kQueryScale,
  kKeyScale,
  kValueScale,
  kWeightScale,
  kWeightFactor,
  kOutputFactor,
  kLargestWeight,
  kLargestOutput,
};

fe::DataType_t cudnn_dtype(DType dtype) {
  if (dtype == DType::bf16) return fe::DataType_t::BFLOAT16;
  return dtype == DType::f16 ? fe::DataType_t::HALF : fe::DataType_t::FP8_E4M3;
}

/// [B, S, N, D] as cuDNN counts: [B, N, S, D].
std::vector<std::int64_t> by_heads(const Shape& s) { return {s[0], s[2], s[1], s[3]}; }

class GraphBuilder {
 public:
  explicit GraphBuilder(const SdpaProblem& problem) : p_(problem), graph_(std::make_shared<fe::graph::Graph>()) {}

  std::shared_ptr<fe::graph::Graph> build() {
    refuse_versions();
    graph_->set_io_data_type(cudnn_dtype(p_.query.dtype()))
        .set_intermediate_data_type(fe::DataType_t::FLOAT)
        .set_compute_data_type(fe::DataType_t::FLOAT);
    auto attributes = fe::graph::SDPA_attributes().set_name("attention").set_generate_stats(p_.lse);
    attributes.set_attn_scale(p_.scale);
    if (p_.causal) {
      // Where there are as many queries as keys both corners are one; fewer kernels take the other.
      const bool square = !p_.packed && p_.query.shape()[1] == p_.key.shape()[1];
      attributes.set_diagonal_alignment(square ? fe::DiagonalAlignment_t::TOP_LEFT
                                               : fe::DiagonalAlignment_t::BOTTOM_RIGHT);
      attributes.set_diagonal_band_right_bound(0);
    }
    const TensorPointer query = operand("query", kQuery, p_.query, kQueryBegins);
    const TensorPointer key = operand("key", kKey, p_.key, kKeyBegins);
    const TensorPointer value = operand("value", kValue, p_.value, kValueBegins);
    if (p_.packed) {
      attributes.set_padding_mask(true);
      attributes.set_seq_len_q(whole("query lengths", kQueryLengths, sequences(), fe::DataType_t::INT32));
      attributes.set_seq_len_kv(whole("key lengths", kKeyLengths, sequences(), fe::DataType_t::INT32));
    }
    if (p_.query.dtype() != DType::f8_e4m3) {
      auto [output, stats] = graph_->sdpa(query, key, value, attributes);
      return finish(output, stats);
    }
    auto [output, stats, largest_weight, largest_output] =
        graph_->sdpa_fp8(query, key, value, scalar("query scale", kQueryScale), scalar("key scale", kKeyScale),
                         scalar("value scale", kValueScale), scalar("weight scale", kWeightScale),
                         scalar("weight factor", kWeightFactor), scalar("output factor", kOutputFactor), attributes);
    const std::vector<std::int64_t> one(4, 1);
    largest_weight->set_output(true)
        .set_uid(kLargestWeight)
        .set_dim(one)
        .set_stride(one)
        .set_data_type(fe::DataType_t::FLOAT);
    largest_output->set_output(true)
        .set_uid(kLargestOutput)
        .set_dim(one)
        .set_stride(one)
        .set_data_type(fe::DataType_t::FLOAT);
    return finish(output, stats);
  }

 private:
  /// What the front end does not: beginnings in 64 bits, and packed sequences in e4m3.
  void refuse_versions() const {
    constexpr std::size_t kWideBegins = 90500;
    constexpr std::size_t kPackedE4m3 = 92300;
    if (!p_.packed) return;
    const bool narrow = p_.query.dtype() == DType::f8_e4m3;
    if (fe::detail::get_backend_version() < (narrow ? kPackedE4m3 : kWideBegins))
      throw Unsupported(
          fmt::format("cuDNN: packed sequences{} need version {}", narrow ? " in e4m3" : "", narrow ? "9.23" : "9.5"));
  }

  std::int64_t sequences() const { return p_.query.shape()[0]; }

  TensorPointer operand(const char* name, Operand id, const Tensor& tensor, Operand begins) {
    auto attributes = fe::graph::Tensor_attributes()
                          .set_name(name)
                          .set_uid(id)
                          .set_dim(by_heads(tensor.shape()))
                          .set_stride(by_heads(tensor.strides()));
    if (p_.packed) attributes.set_ragged_offset(whole(name, begins, sequences() + 1, fe::DataType_t::INT64));
    return graph_->tensor(attributes);
  }
  TensorPointer whole(const char* name, Operand id, std::int64_t count, fe::DataType_t type) {
    return graph_->tensor(fe::graph::Tensor_attributes()
                              .set_name(name)
                              .set_uid(id)
                              .set_dim({count, 1, 1, 1})
                              .set_stride({1, 1, 1, 1})
                              .set_data_type(type));
  }
  TensorPointer scalar(const char* name, Operand id) {
    return graph_->tensor(fe::graph::Tensor_attributes()
                              .set_name(name)
                              .set_uid(id)
                              .set_dim({1, 1, 1, 1})
                              .set_stride({1, 1, 1, 1})
                              .set_data_type(fe::DataType_t::FLOAT));
  }

  std::shared_ptr<fe::graph::Graph> finish(const TensorPointer& output, const TensorPointer& stats) {
    output->set_output(true)
        .set_uid(kOutput)
        .set_dim(by_heads(p_.output.shape()))
        .set_stride(by_heads(p_.output.strides()))
        .set_data_type(cudnn_dtype(p_.output.dtype()));
    if (p_.packed) output->set_ragged_offset(whole("output", kOutputBegins, sequences() + 1, fe::DataType_t::INT64));
    if (p_.lse) {
      const Shape& s = p_.output.shape();
      stats->set_output(true)
          .set_uid(kStats)
          .set_data_type(fe::DataType_t::FLOAT)
          .set_dim({s[0], s[2], s[1], 1})
          .set_stride({s[2] * s[1], s[1], 1, 1});
    }
    return graph_;
  }

  const SdpaProblem& p_;
  std::shared_ptr<fe::graph::Graph> graph_;
};

class CudnnSdpa final : public Sdpa {
 public:
  explicit CudnnSdpa(std::shared_ptr<fe::graph::Graph> graph) : graph_(std::move(graph)) {}

  void run(const CudaRun& run, const SdpaOperands& o) const override {
    std::unordered_map<std::int64_t, void*> operands;
    const auto point_to = [&](Operand id, const void* memory) {
      if (memory != nullptr) operands[id] = const_cast<void*>(memory);
    };
    point_to(kQuery, o.query.data());
    point_to(kKey, o.key.data());
    point_to(kValue, o.value.data());
    point_to(kOutput, o.output.data());
    if (o.lse.defined()) point_to(kStats, o.lse.data());
    point_to(kQueryLengths, o.sequences.query_lengths);
    point_to(kKeyLengths, o.sequences.key_lengths);
    point_to(kQueryBegins, o.sequences.query_begins);
    point_to(kKeyBegins, o.sequences.key_begins);
    point_to(kValueBegins, o.sequences.value_begins);
    point_to(kOutputBegins, o.sequences.output_begins);
    point_to(kQueryScale, o.scales.query);
    point_to(kKeyScale, o.scales.key);
    point_to(kValueScale, o.scales.value);
    point_to(kWeightScale, o.scales.weight);
    point_to(kWeightFactor, o.scales.weight_factor);
    point_to(kOutputFactor, o.scales.output_factor);
    Tensor largest;  // that nobody asks for
    if (o.scales.query != nullptr) {
      constexpr std::int64_t kApart = 4;  // each on 16 bytes
      largest = run.temporary({2 * kApart}, DType::f32);
      point_to(kLargestWeight, largest.as<float>());
      point_to(kLargestOutput, largest.as<float>() + kApart);
    }
    execute_cudnn(*graph_, run, operands);
  }

 private:
  std::shared_ptr<fe::graph::Graph> graph_;
};

}  // namespace

const std::string& sdpa_missing() { return cudnn_missing(); }

std::shared_ptr<fe::graph::Graph> sdpa_graph(const SdpaProblem& problem) { return GraphBuilder(problem).build(); }

std::unique_ptr<const Sdpa> make_sdpa(const SdpaProblem& problem) {
  check(cudaSetDevice(problem.device.index), "cudaSetDevice", problem.device.index);
  std::shared_ptr<fe::graph::Graph> graph = sdpa_graph(problem);
  auto status = graph->build(cudnn_handle(nullptr), {fe::HeurMode_t::A});
  if (!status.is_good()) throw Unsupported(fmt::format("cuDNN: {}", status.get_message()));
  return std::make_unique<CudnnSdpa>(std::move(graph));
}

}  // namespace rondo::cuda
