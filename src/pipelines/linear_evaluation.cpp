#include "pipelines/linear_evaluation.h"

#include <algorithm>
#include <map>
#include <memory>

#include "backends/cpu/kernels.h"
#include "backends/device_work.h"
#include "backends/devices.h"
#include "graph/model.h"
#include "graph/passes/quantize_linears.h"
#include "ops/linear.h"
#include "pipelines/flux_pipeline.h"
#include "pipelines/plan_options.h"

namespace rondo {
namespace {

/// One layer's quantised product beside the one that runs, on the device on which that one runs.
class LayerTwin {
 public:
  LayerTwin(const Graph& graph, const Node& node, WeightStore& weights, const PlanTarget& target)
      : op_(node.op), threads_(target.threads) {
    const TensorType output = op_->infer(graph.input_types(node))[0];
    if (!output.device.is_cpu()) work_ = std::make_unique<DeviceWork>(target.device);
    std::vector<KernelInput> inputs;
    for (const ValueId id : node.inputs) {
      const Value& value = graph.values[static_cast<std::size_t>(id)];
      inputs.push_back({Tensor::borrow(nullptr, value.type.shape, value.type.dtype, value.type.device),
                        value.kind == ValueKind::weight ? value.name : ""});
    }
    output_ = empty_on(output.device, output.shape, output.dtype);
    const ExecutionDevice* const device = work_ == nullptr ? nullptr : &work_->device();
    const KernelRequest request{*op_, inputs, {&output_, 1}, threads_, weights, device};
    const KernelEntry& entry = *select_kernel(device == nullptr ? cpu::kernels() : device->kernels(), request).entry;
    kernel_ = entry.make(request);
    name_ = kernel_->implementation().empty() ? entry.name : kernel_->implementation();
    scratch_ = empty_on(output.device, {static_cast<std::int64_t>(kernel_->scratch_bytes())}, DType::u8);
  }

  std::string_view kernel() const { return name_; }

  /// `input` and `wanted` on the CPU.
  TensorQuality compare(const Tensor& input, const Tensor& wanted) {
    // The kernels of quantised linears take dense input in the shape that they were made for.
    const Tensor dense = input.to(input.dtype());
    const std::vector<Tensor> inputs{work_ == nullptr ? dense : work_->device().upload(dense), Tensor(), Tensor()};
    KernelArgs args{inputs, {&output_, 1}, {scratch_.as<std::byte>(), scratch_.bytes()}, threads_};
    if (work_ != nullptr) {
      args.device = &work_->device();
      args.stream = &work_->stream();
    }
    kernel_->run(args);
    if (work_ != nullptr) work_->finish();
    const Tensor a = wanted.to_float32();
    const Tensor b = (work_ == nullptr ? output_ : work_->device().download(output_)).to_float32();
    const auto count = static_cast<std::size_t>(a.elements());
    return compare_values({a.as<float>(), count}, {b.as<float>(), count});
  }

 private:
  std::shared_ptr<const Operator> op_;  // its kernel refers to it
  int threads_;
  std::unique_ptr<DeviceWork> work_;  // null: on the CPU
  std::unique_ptr<const Kernel> kernel_;
  std::string_view name_;
  Tensor output_;
  Tensor scratch_;
};

/// Every layer's twin, made when the layer first runs.
class Twins {
 public:
  Twins(const std::string& folder, const PlanOptions& options)
      : context_(pass_context(options)),
        target_(options.target),
        weights_(open_weights(DiffusersFolder::open(folder), "transformer", context_.quantization)) {}

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
    const PassResult pass = quantize_linears(alone, context_);
    const auto& op = static_cast<const LinearOp&>(*alone.nodes[0].op);
    layers_[layer] = results_.size();
    if (!op.quantization()) {
      const std::string& miss = pass.near_misses.at(0);
      results_.push_back({layer, miss.substr(miss.find(": ") + 2), "", false, 1, 0});
      return;
    }
    auto twin = std::make_unique<LayerTwin>(graph, alone.nodes[0], weights_, target_);
    results_.push_back({layer, op.quantization()->to_string(), std::string(twin->kernel()), true, 1, 0});
    twins_.emplace(layer, std::move(twin));
  }

  PassContext context_;
  PlanTarget target_;
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
