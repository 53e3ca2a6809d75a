#include "pipelines/smoothing.h"

#include <algorithm>
#include <cmath>

#include "ops/linear.h"
#include "pipelines/flux_pipeline.h"
#include "pipelines/plan_options.h"
#include "quantization/quantization_policy.h"

namespace rondo {
namespace {

void raise_to(std::vector<float>& largest, const Tensor& rows) {
  const Tensor values = rows.to_float32();
  const std::int64_t width = values.shape().back();
  largest.resize(static_cast<std::size_t>(width), 0.0F);
  for (std::int64_t r = 0; r < values.shape().rows(); ++r) {
    const float* row = values.as<float>() + r * width;
    for (std::int64_t k = 0; k < width; ++k) {
      float& most = largest[static_cast<std::size_t>(k)];
      most = std::max(most, std::abs(row[k]));
    }
  }
}

}  // namespace

InputRanges measure_input_ranges(const std::string& folder, const std::vector<std::string>& prompts, std::int64_t steps,
                                 const std::atomic<bool>* cancel) {
  InputRanges ranges;
  PipelineOptions options;
  options.compile = false;  // each layer by itself
  options.quantization.format = "none";
  ComputeOptions compute = compute_options(options);
  compute.tap = [&](const Graph& graph, const Node& node, std::span<const Tensor> inputs, std::span<const Tensor>) {
    if (dynamic_cast<const LinearOp*>(node.op.get()) == nullptr) return;
    const Value& weight = graph.values[static_cast<std::size_t>(node.inputs[1])];
    raise_to(ranges[layer_of_weight(weight.name)], inputs[0]);
  };
  RunObserver observer;
  observer.cancel = cancel;
  FluxPipeline pipeline(DiffusersFolder::open(folder), compute);
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    TextToImageRequest request;
    request.prompt = prompts[i];
    request.seed = i;
    request.num_inference_steps = steps;
    pipeline.generate(
        pipeline.resolve(request), [](GeneratedImage&&) {}, observer);
  }
  return ranges;
}

std::map<std::string, Tensor> smoothing_factors(const Graph& graph, const WeightSource& weights,
                                                const InputRanges& ranges, double strength) {
  std::map<ValueId, std::vector<std::string>> readers;  // layers by what they read
  for (const Node& node : graph.nodes) {
    if (dynamic_cast<const LinearOp*>(node.op.get()) == nullptr) continue;
    const std::string layer = layer_of_weight(graph.values[static_cast<std::size_t>(node.inputs[1])].name);
    if (ranges.contains(layer)) readers[node.inputs[0]].push_back(layer);
  }
  std::map<std::string, Tensor> result;
  for (const auto& [value, layers] : readers) {
    const std::vector<float>& inputs = ranges.at(layers[0]);
    std::vector<float> largest_weights;
    for (const std::string& layer : layers) raise_to(largest_weights, weights.tensor(layer + ".weight"));
    Tensor factors = Tensor::empty({static_cast<std::int64_t>(inputs.size())}, DType::f32);
    for (std::size_t k = 0; k < inputs.size(); ++k) {
      // A channel that was never used, or that no weight reads, stays as it is.
      const double x = inputs[k];
      const double w = largest_weights[k];
      const bool usable = x > 1e-5 && w > 1e-5 && std::isfinite(x) && std::isfinite(w);
      factors.as<float>()[k] = usable ? static_cast<float>(std::pow(x, strength) / std::pow(w, 1 - strength)) : 1.0F;
    }
    for (const std::string& layer : layers) result[layer] = factors;
  }
  return result;
}

}  // namespace rondo
