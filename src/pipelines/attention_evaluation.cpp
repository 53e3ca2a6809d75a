#include "pipelines/attention_evaluation.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <random>

#include "attention/attention_op.h"
#include "backends/attention_backends.h"
#include "backends/cpu/compute_dtype.h"
#include "pipelines/flux_pipeline.h"
#include "pipelines/picture_quality.h"
#include "pipelines/plan_options.h"

namespace rondo {
namespace {

constexpr std::string_view kOutliers = "outliers";

std::span<const float> values_of(const Tensor& tensor) {
  return {tensor.as<float>(), static_cast<std::size_t>(tensor.elements())};
}

/// The float64 model where no kernel takes 8-bit operands here.
std::string backend_for(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& options) {
  for (const AttentionBackendAnswer& answer : attention_backends(q, k, v, {}, options)) {
    if (!answer.refusal && answer.name != "reference") return answer.name;
  }
  return "reference";
}

/// What both ways of quantising give on operands [B, S, N, D], put beside what was found before.
void compare(const Tensor& query, const Tensor& key, const Tensor& value, AttentionOptions options,
             std::array<EvaluatedAttention, 2>& found) {
  const Tensor q = query.to_float32();
  const Tensor k = key.to_float32();
  const Tensor v = value.to_float32();
  const Tensor wanted = attention_forward(q, k, v, {}, options).output;
  options.kv_cache_dtype = KvCacheDtype::int8;
  options.backend = backend_for(q, k, v, options);
  for (EvaluatedAttention& way : found) {
    options.rotate = way.rotated;
    const Tensor given = attention_forward(q, k, v, {}, options).output;
    const TensorQuality quality = compare_values(values_of(wanted), values_of(given));
    // What is no number is as far off as can be.
    const double infinity = std::numeric_limits<double>::infinity();
    way.cosine = std::isnan(quality.cosine) ? -1 : std::min(way.cosine, quality.cosine);
    way.relative_l2 = std::isnan(quality.relative_l2) ? infinity : std::max(way.relative_l2, quality.relative_l2);
    for (std::int64_t i = 0; i < wanted.elements(); ++i) {
      const double error = std::abs(static_cast<double>(wanted.as<float>()[i]) - given.as<float>()[i]);
      way.max_error = std::isnan(error) ? infinity : std::max(way.max_error, error);
    }
  }
}

std::array<EvaluatedAttention, 2> both_ways(const std::string& layer) { return {{{layer, true}, {layer, false}}}; }

/// The number of attention nodes that stand before this one.
std::size_t layer_of(const Graph& graph, const Node& node) {
  std::size_t layer = 0;
  for (const Node& other : graph.nodes) {
    if (&other == &node) break;
    layer += dynamic_cast<const AttentionOp*>(other.op.get()) != nullptr ? 1 : 0;
  }
  return layer;
}

std::array<EvaluatedAttention, 2> evaluate_outliers(int threads) {
  constexpr std::int64_t kWidth = 128;
  std::mt19937 engine(1);
  std::normal_distribution<float> normal;
  std::array<Tensor, 3> operands;
  for (std::size_t o = 0; o < operands.size(); ++o) {
    operands[o] = Tensor::empty({1, 512, 2, kWidth}, DType::f32);
    for (std::int64_t i = 0; i < operands[o].elements(); ++i) {
      const bool stands_out = o < 2 && (i % kWidth == 5 || i % kWidth == 77);
      operands[o].as<float>()[i] = normal(engine) * (stands_out ? 50.0F : 1.0F);
    }
  }
  AttentionOptions options;
  options.scale = 1.0 / 2000;
  options.threads = threads;
  auto found = both_ways(std::string(kOutliers));
  compare(operands[0], operands[1], operands[2], options, found);
  return found;
}

}  // namespace

std::vector<EvaluatedAttention> evaluate_attention(const std::string& folder, const PipelineOptions& options,
                                                   const TextToImageRequest& request, const std::atomic<bool>* cancel) {
  PipelineOptions native = options;
  native.kv_cache = {};
  ComputeOptions compute;
  compute.dtype = resolve_compute_dtype(native.dtype);
  compute.plan = plan_options(native);
  std::vector<std::array<EvaluatedAttention, 2>> layers;
  compute.tap = [&](const Graph& graph, const Node& node, std::span<const Tensor> inputs, std::span<const Tensor>) {
    const auto* op = dynamic_cast<const AttentionOp*>(node.op.get());
    if (op == nullptr) return;
    const std::size_t layer = layer_of(graph, node);
    while (layers.size() <= layer) layers.push_back(both_ways(std::to_string(layers.size())));
    AttentionOptions how;
    how.scale = op->scale();
    how.causal = op->causal();
    how.threads = compute.plan.threads;
    compare(inputs[0], inputs[1], inputs[2], how, layers[layer]);
  };
  FluxPipeline pipeline(DiffusersFolder::open(folder), compute);
  ResolvedTextToImageRequest resolved = pipeline.resolve(request);
  resolved.num_images_per_prompt = 1;
  RunObserver observer;
  observer.cancel = cancel;
  pipeline.generate(
      resolved, [](GeneratedImage&&) {}, observer);
  layers.push_back(evaluate_outliers(compute.plan.threads));
  std::vector<EvaluatedAttention> result;
  for (const auto& layer : layers) result.insert(result.end(), layer.begin(), layer.end());
  return result;
}

std::string layers_below(const std::vector<EvaluatedAttention>& found, bool rotated, double least) {
  std::vector<std::string_view> layers;
  for (const EvaluatedAttention& row : found) {
    if (row.rotated == rotated && row.layer != kOutliers && row.cosine < least) layers.push_back(row.layer);
  }
  return fmt::format("{}", fmt::join(layers, ","));
}

}  // namespace rondo
