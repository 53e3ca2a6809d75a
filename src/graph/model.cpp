#include "graph/model.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/cpu_level.h"

namespace rondo {

PassContext pass_context(const PlanOptions& options) {
  PassContext context{options.target.where()};
  if (options.target.device == nullptr) context.cpu_level = cpu_level();
  context.threads = options.target.threads;
  context.attention = options.attention;
  context.kv_cache = options.kv_cache;
  context.parallel = options.parallel;
  context.quantization = options.quantization;
  return context;
}

std::vector<PassResult> run_flow(Graph& graph, const PlanOptions& options) {
  return run_passes(graph, options.passes, pass_context(options));
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
