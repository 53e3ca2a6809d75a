#include "graph/model.h"

#include <fmt/format.h>

#include <algorithm>

#include "graph/passes/attention_selection.h"
#include "graph/passes/quantize_attention.h"
#include "graph/passes/quantize_linears.h"
#include "graph/passes/sequence_parallel.h"

namespace rondo {

std::vector<PassResult> run_flow(Graph& graph, const PlanOptions& options) {
  request_attention(graph, options.attention);
  std::vector<PassResult> results;
  if (options.kv_cache.active()) results.push_back(quantize_attention(graph, options.kv_cache));
  if (options.parallel.active()) results.push_back(parallelize_sequence(graph, options.parallel));
  if (options.quantization.active()) results.push_back(quantize_linears(graph, options.quantization));
  for (PassResult& result : run_passes(graph, options.passes)) results.push_back(std::move(result));
  return results;
}

std::shared_ptr<const Plan> Model::plan(const std::string& key, const PlanOptions& options,
                                        const std::function<Graph()>& build) {
  const std::string full_key =
      fmt::format("{} {} passes={} attention:{} kv cache:{} parallel:{} quantization:{}", key,
                  options.target.to_string(), options.passes.to_string(), to_string(options.attention),
                  options.kv_cache.to_string(), options.parallel.to_string(), options.quantization.to_string());
  const std::lock_guard lock(mutex_);
  const auto found =
      std::find_if(plans_.begin(), plans_.end(), [&](const auto& entry) { return entry.first == full_key; });
  if (found != plans_.end()) {
    plans_.splice(plans_.begin(), plans_, found);
    return found->second;
  }
  Graph graph = build();
  std::vector<PassResult> passes = run_flow(graph, options);
  plans_.emplace_front(full_key,
                       std::make_shared<const Plan>(std::move(graph), std::move(passes), weights_, options.target));
  if (plans_.size() > kPlans) plans_.pop_back();
  return plans_.front().second;
}

}  // namespace rondo
