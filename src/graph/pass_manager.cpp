#include "graph/pass_manager.h"

#include <fmt/format.h>

#include <algorithm>

#include "graph/passes/common_subexpressions.h"
#include "graph/passes/dead_nodes.h"
#include "rondo/error.h"

namespace rondo {

const std::vector<Pass>& all_passes() {
  static const std::vector<Pass> passes{
      {"common-subexpressions", "nodes that compute the same from the same become one", merge_common_subexpressions},
      {"dead-nodes", "nodes whose results nobody reads are dropped", remove_dead_nodes},
  };
  return passes;
}

void PassSelection::check() const {
  for (const auto* names : {&without, &only}) {
    for (const std::string& name : *names) {
      std::vector<std::string_view> known;
      for (const Pass& pass : all_passes()) known.push_back(pass.name);
      if (std::find(known.begin(), known.end(), name) == known.end()) {
        throw InvalidArgument(fmt::format("pass: '{}' is not known; known are {}", name, fmt::join(known, ", ")));
      }
    }
  }
}

bool PassSelection::contains(std::string_view name) const {
  const auto listed = [&](const std::vector<std::string>& names) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  return !listed(without) && (!only_is_set || listed(only));
}

std::string PassSelection::to_string() const {
  std::vector<std::string_view> names;
  for (const Pass& pass : all_passes()) {
    if (contains(pass.name)) names.push_back(pass.name);
  }
  return fmt::format("{}", fmt::join(names, ","));
}

std::vector<PassResult> run_passes(Graph& graph, const PassSelection& selection) {
  std::vector<PassResult> results;
  for (const Pass& pass : all_passes()) {
    if (!selection.contains(pass.name)) continue;
    results.push_back(pass.run(graph));
    results.back().name = pass.name;
  }
  return results;
}

}  // namespace rondo
