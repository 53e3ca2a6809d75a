#include "graph/model.h"

#include <fmt/format.h>

#include <algorithm>

#include "graph/passes/attention_selection.h"

namespace rondo {

std::shared_ptr<const Plan> Model::plan(const std::string& key, const PlanOptions& options,
                                        const std::function<Graph()>& build) {
  const std::string full_key = fmt::format("{} threads={} passes={} attention:{}", key, options.threads,
                                           options.passes.to_string(), to_string(options.attention));
  const std::lock_guard lock(mutex_);
  const auto found =
      std::find_if(plans_.begin(), plans_.end(), [&](const auto& entry) { return entry.first == full_key; });
  if (found != plans_.end()) {
    plans_.splice(plans_.begin(), plans_, found);
    return found->second;
  }
  Graph graph = build();
  request_attention(graph, options.attention);
  std::vector<PassResult> passes = run_passes(graph, options.passes);
  plans_.emplace_front(full_key,
                       std::make_shared<const Plan>(std::move(graph), std::move(passes), weights_, options.threads));
  if (plans_.size() > kPlans) plans_.pop_back();
  return plans_.front().second;
}

}  // namespace rondo
