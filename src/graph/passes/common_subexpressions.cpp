#include "graph/passes/common_subexpressions.h"

#include <fmt/format.h>

#include <map>

#include "graph/passes/rewrite.h"

namespace rondo {

PassResult merge_common_subexpressions(Graph& graph) {
  PassResult result;
  std::vector<ValueId> replacement(graph.values.size());
  for (std::size_t i = 0; i < replacement.size(); ++i) replacement[i] = static_cast<ValueId>(i);
  std::vector<bool> remove(graph.nodes.size(), false);
  std::map<std::string, std::size_t> seen;
  for (std::size_t i = 0; i < graph.nodes.size(); ++i) {
    Node& node = graph.nodes[i];
    for (ValueId& input : node.inputs) input = replacement[static_cast<std::size_t>(input)];
    const std::string key =
        fmt::format("{}[{}]({})", node.op->name(), node.op->attributes(), fmt::join(node.inputs, ","));
    if (node.op->has_effect()) continue;
    const auto [first, is_new] = seen.emplace(key, i);
    if (is_new) continue;
    const Node& same = graph.nodes[first->second];
    for (std::size_t o = 0; o < node.outputs.size(); ++o) {
      replacement[static_cast<std::size_t>(node.outputs[o])] = same.outputs[o];
    }
    remove[i] = true;
    ++result.nodes_matched;
    ++result.nodes_removed;
  }
  for (NamedValue& output : graph.outputs) output.value = replacement[static_cast<std::size_t>(output.value)];
  remove_nodes(graph, remove);
  return result;
}

}  // namespace rondo
