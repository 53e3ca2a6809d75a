#include "pipelines/linear_evaluation.h"

#include <algorithm>
#include <map>
#include <memory>

#include "backends/cpu/kernels.h"
#include "core/threads.h"
#include "graph/passes/quantize_linears.h"
#include "ops/linear.h"
#include "pipelines/flux_pipeline.h"
#include "pipelines/plan_options.h"

namespace rondo {
namespace {

/// One layer's quantised product beside the one that runs.
class LayerTwin {
 public:
  LayerTwin(const Graph& graph, const Node& node, const LinearOp& op, WeightStore& weights, int threads)
      : threads_(threads) {
    std::vector<KernelInput> inputs;
    for (const ValueId id : node.inputs) {
      const Value& value = graph.values[static_cast<std::size_t>(id)];
      inputs.push_back({Tensor::borrow(nullptr, value.type.shape, value.type.dtype),
                        value.kind == ValueKind::weight ? value.name : ""});
    }
    const TensorType output = op.infer(graph.input_types(node))[0];
    output_ = Tensor::empty(output.shape, output.dtype);
    const KernelRequest request{op, inputs, {&output_, 1}, threads, weights};
    kernel_ = select_kernel(cpu::kernels(), request).entry->make(request);
    scratch_ = Tensor::empty({static_cast<std::int64_t>(kernel_->scratch_bytes())}, DType::u8);
  }

  TensorQuality compare(const Tensor& input, const Tensor& wanted) {
    // The kernels of quantised linears take dense input in the shape that they were made for.
    const std::vector<Tensor> inputs{input.to(input.dtype()), Tensor(), Tensor()};
    kernel_->run({inputs, {&output_, 1}, {scratch_.as<std::byte>(), scratch_.bytes()}, threads_});
    const Tensor a = wanted.to_float32();
    const Tensor b = output_.to_float32();
    const auto count = static_cast<std::size_t>(a.elements());
    return compare_values({a.as<float>(), count}, {b.as<float>(), count});
  }

 private:
  int threads_;
  std::unique_ptr<const Kernel> kernel_;
  Tensor output_;
  Tensor scratch_;
};

/// Every layer's twin, made when the layer first runs.
class Twins {
 public:
  Twins(const std::string& folder, const PlanOptions& options)
      : policy_(options.quantization),
        threads_(options.target.threads),
        weights_(open_weights(DiffusersFolder::open(folder), "transformer", policy_)) {}

  void look(const Graph& graph, const Node& node, std::span<const Tensor> inputs, std::span<const Tensor> outputs) {
    if (dynamic_cast<const LinearOp*>(node.op.get()) == nullptr) return;
    const std::string layer = layer_of_weight(graph.values[static_cast<std::size_t>(node.inputs[1])].name);
    if (layers_.find(layer) == layers_.end()) add(graph, node, layer);
    EvaluatedLayer& result = results_[layers_.at(layer)];
    if (!result.quantized) return;
    const TensorQuality quality = twins_.at(layer)->compare(inputs[0], outputs[0]);
    result.cosine = std::min(result.cosine, quality.cosine);
    result.relative_l2 = std::max(result.relative_l2, quality.relative_l2);
  }
  const std::vector<EvaluatedLayer>& results() const { return results_; }

 private:
  void add(const Graph& graph, const Node& node, const std::string& layer) {
    // The pass itself decides, on a graph of this one node.
    Graph alone = graph;
    alone.nodes = {node};
    const PassResult pass = quantize_linears(alone, policy_);
    const auto& op = static_cast<const LinearOp&>(*alone.nodes[0].op);
    layers_[layer] = results_.size();
    if (!op.quantization()) {
      const std::string& miss = pass.near_misses.at(0);
      results_.push_back({layer, miss.substr(miss.find(": ") + 2), false, 1, 0});
      return;
    }
    results_.push_back({layer, op.quantization()->to_string(), true, 1, 0});
    twins_.emplace(layer, std::make_unique<LayerTwin>(graph, node, op, weights_, threads_));
  }

  QuantizationPolicy policy_;
  int threads_;
  WeightStore weights_;
  std::map<std::string, std::size_t> layers_;
  std::map<std::string, std::unique_ptr<LayerTwin>> twins_;
  std::vector<EvaluatedLayer> results_;
};

}  // namespace

LinearEvaluation evaluate_linears(const std::string& folder, const PipelineOptions& options,
                                  const TextToImageRequest& request, const std::atomic<bool>* cancel) {
  RunObserver observer;
  observer.cancel = cancel;
  const auto draw = [&](const PipelineOptions& with, const NodeTap& tap) {
    ComputeOptions compute = compute_options(with);
    compute.tap = tap;
    FluxPipeline pipeline(DiffusersFolder::open(folder), compute);
    ResolvedTextToImageRequest resolved = pipeline.resolve(request);
    resolved.num_images_per_prompt = 1;
    Image picture;
    pipeline.generate(
        resolved, [&](GeneratedImage&& made) { picture = std::move(made.image); }, observer);
    return picture;
  };
  LinearEvaluation evaluation;
  PipelineOptions plain = options;
  plain.quantization = {};
  plain.quantization.format = "none";
  plain.compile = false;  // each layer by itself
  Twins twins(folder, plan_options(options));
  evaluation.wanted = draw(plain, [&](const Graph& graph, const Node& node, std::span<const Tensor> inputs,
                                      std::span<const Tensor> outputs) { twins.look(graph, node, inputs, outputs); });
  evaluation.given = draw(options, {});
  evaluation.layers = twins.results();
  evaluation.picture = compare_pictures(evaluation.wanted, evaluation.given);
  return evaluation;
}

}  // namespace rondo
