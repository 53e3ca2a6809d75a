#include "pipelines/attention_evaluation.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <random>

#include "attention/attention_op.h"
#include "backends/attention_backends.h"
#include "pipelines/flux_pipeline.h"
#include "pipelines/picture_quality.h"
#include "pipelines/plan_options.h"

namespace rondo {
namespace {

std::span<const float> values_of(const Tensor& tensor) {
  return {tensor.as<float>(), static_cast<std::size_t>(tensor.elements())};
}

/// The float64 model where no kernel takes quantised operands here.
std::string backend_for(const Tensor& q, const Tensor& k, const Tensor& v, const std::string& named,
                        const AttentionOptions& options) {
  std::string first;
  for (const AttentionBackendAnswer& answer : attention_backends(q, k, v, {}, options)) {
    if (answer.refusal || answer.name == "reference") continue;
    if (answer.name == named) return named;
    if (first.empty()) first = answer.name;
  }
  if (!first.empty()) return first;
  return "reference";
}

/// What each way of quantising gives on operands [B, S, N, D], by the kernel of that name where it takes them, put
/// beside what was found before.
void compare(const Tensor& query, const Tensor& key, const Tensor& value, const std::string& kernel,
             AttentionOptions options, std::span<EvaluatedAttention> found) {
  const Tensor q = query.to_float32();
  const Tensor k = key.to_float32();
  const Tensor v = value.to_float32();
  const Tensor wanted = attention_forward(q, k, v, {}, options).output;
  for (EvaluatedAttention& way : found) {
    options.kv_cache_dtype = way.quantization.dtype;
    options.rotate = way.quantization.rotates;
    options.smooth_k = way.quantization.smooths;
    options.backend.clear();
    options.backend = backend_for(q, k, v, kernel, options);
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

std::vector<EvaluatedAttention> untried(const std::string& layer, std::span<const AttentionQuantization> ways) {
  std::vector<EvaluatedAttention> rows;
  for (const AttentionQuantization& way : ways) rows.push_back({layer, way});
  return rows;
}

/// The number of attention nodes that stand before this one.
std::size_t layer_of(const Graph& graph, const Node& node) {
  std::size_t layer = 0;
  for (const Node& other : graph.nodes) {
    if (&other == &node) break;
    layer += dynamic_cast<const AttentionOp*>(other.op.get()) != nullptr ? 1 : 0;
  }
  return layer;
}

/// Query, key and value [1, 512, 2, kWidth].
constexpr std::int64_t kWidth = 128;

std::array<Tensor, 3> normal_operands() {
  std::mt19937 engine(1);
  std::normal_distribution<float> normal;
  std::array<Tensor, 3> operands;
  for (Tensor& operand : operands) {
    operand = Tensor::empty({1, 512, 2, kWidth}, DType::f32);
    std::generate_n(operand.as<float>(), operand.elements(), [&] { return normal(engine); });
  }
  return operands;
}

template <class Change>
void change_outliers(Tensor& operand, const Change& change) {
  for (std::int64_t row = 0; row < operand.elements(); row += kWidth) {
    for (const std::int64_t channel : {5, 77}) change(operand.as<float>()[row + channel]);
  }
}

}  // namespace

std::vector<AttentionQuantization> every_attention_quantization() {
  std::vector<AttentionQuantization> ways;
  for (const KvCacheDtype dtype : {KvCacheDtype::int8, KvCacheDtype::fp8}) {
    for (const bool smooths : {false, true}) {
      for (const bool rotates : {true, false}) ways.push_back({dtype, rotates, smooths});
    }
  }
  return ways;
}

std::vector<EvaluatedAttention> evaluate_attention(const std::string& folder, const PipelineOptions& options,
                                                   const TextToImageRequest& request,
                                                   std::span<const AttentionQuantization> ways,
                                                   const std::atomic<bool>* cancel) {
  ComputeOptions compute = compute_options(options);
  compute.kv_cache = {};
  compute.kv_cache.dtype = KvCacheDtype::automatic;
  // A kernel that is named and takes quantised operands only says nothing of the run itself.
  std::string& named = compute.plan.attention.backend;
  const std::string kernel = named;
  if (!named.empty() && !attention_registry().find(named, "the call")->takes(KvCacheDtype::automatic)) named.clear();
  std::vector<std::vector<EvaluatedAttention>> layers;
  compute.tap = [&](const Graph& graph, const Node& node, std::span<const Tensor> inputs, std::span<const Tensor>) {
    const auto* op = dynamic_cast<const AttentionOp*>(node.op.get());
    if (op == nullptr) return;
    const std::size_t layer = layer_of(graph, node);
    while (layers.size() <= layer) layers.push_back(untried(std::to_string(layers.size()), ways));
    AttentionOptions how;
    how.scale = op->scale();
    how.causal = op->causal();
    how.threads = compute.plan.target.threads;
    compare(inputs[0], inputs[1], inputs[2], kernel, how, layers[layer]);
  };
  FluxPipeline pipeline(DiffusersFolder::open(folder), compute);
  ResolvedTextToImageRequest resolved = pipeline.resolve(request);
  resolved.num_images_per_prompt = 1;
  RunObserver observer;
  observer.cancel = cancel;
  pipeline.generate(
      resolved, [](GeneratedImage&&) {}, observer);
  std::vector<EvaluatedAttention> result;
  for (const auto& layer : layers) result.insert(result.end(), layer.begin(), layer.end());
  return result;
}

std::vector<EvaluatedAttention> evaluate_synthetic_attention(std::span<const AttentionQuantization> ways,
                                                             const std::string& kernel, int threads) {
  std::vector<EvaluatedAttention> result;
  const auto add = [&](const std::string& name, const std::array<Tensor, 3>& operands, std::optional<double> scale) {
    AttentionOptions options;
    options.scale = scale;
    options.threads = threads;
    std::vector<EvaluatedAttention> rows = untried(name, ways);
    compare(operands[0], operands[1], operands[2], kernel, options, rows);
    result.insert(result.end(), rows.begin(), rows.end());
  };
  constexpr float kOutlier = 50;
  add("noise", normal_operands(), std::nullopt);
  auto outliers = normal_operands();
  for (const std::size_t operand : {0U, 1U}) change_outliers(outliers[operand], [](float& x) { x *= kOutlier; });
  add("outliers", outliers, 1.0 / 2000);
  auto offset = normal_operands();
  change_outliers(offset[1], [](float& x) { x += kOutlier; });
  add("key offset", offset, std::nullopt);
  return result;
}

std::string layers_below(std::span<const EvaluatedAttention> found, double least) {
  std::vector<std::string_view> layers;
  for (const EvaluatedAttention& row : found) {
    if (row.cosine < least) layers.push_back(row.layer);
  }
  return fmt::format("{}", fmt::join(layers, ","));
}

}  // namespace rondo
