// A model: one set of weights and the plans made over it. Immutable to its users, shared by all sessions.
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>

#include "attention/attention_request.h"
#include "attention/kv_cache_policy.h"
#include "graph/plan.h"
#include "parallel/token_layout.h"
#include "quantization/quantization_policy.h"

namespace rondo {

/// What decides, beside the shapes, how a plan is made.
struct PlanOptions {
  PlanTarget target;
  PassSelection passes;
  /// How every attention node's kernel is chosen.
  AttentionRequest attention;
  /// Which linears are quantised.
  QuantizationPolicy quantization;
  /// Which attention is.
  KvCachePolicy kv_cache;
  /// Over which ranks tokens are split.
  SequenceParallel parallel = {};
};

/// What the options tell a graph's passes.
PassContext pass_context(const PlanOptions& options);

/// Rewrites a graph as the options say, stage by stage.
std::vector<PassResult> run_flow(Graph& graph, const PlanOptions& options);

class Model {
 public:
  /// Packed weights are kept in `cache` and taken from it; null for none.
  explicit Model(std::shared_ptr<const WeightSource> weights, std::shared_ptr<PackedWeightCache> cache = nullptr)
      : weights_(std::move(weights), std::move(cache)) {}

  const WeightSource& source() const { return weights_.source(); }
  const WeightStore& weights() const { return weights_; }

  /// The plan for the graph that `build` makes. `key` says everything that the graph depends on: a plan made before for
  /// the same key, threads and passes is handed out again. The last kPlans are kept.
  std::shared_ptr<const Plan> plan(const std::string& key, const PlanOptions& options,
                                   const std::function<Graph()>& build);

 private:
  static constexpr std::size_t kPlans = 8;

  WeightStore weights_;
  std::mutex mutex_;
  std::list<std::pair<std::string, std::shared_ptr<const Plan>>> plans_;  // most recent first
};

}  // namespace rondo
