#include "graph/passes/dead_nodes.h"

#include <algorithm>

#include "graph/passes/rewrite.h"

namespace rondo {

PassResult remove_dead_nodes(Graph& graph) {
  PassResult result;
  std::vector<bool> read(graph.values.size(), false);
  for (const NamedValue& output : graph.outputs) read[static_cast<std::size_t>(output.value)] = true;
  std::vector<bool> remove(graph.nodes.size(), false);
  for (std::size_t i = graph.nodes.size(); i-- > 0;) {
    const Node& node = graph.nodes[i];
    const bool needed = node.op->has_effect() || std::any_of(node.outputs.begin(), node.outputs.end(), [&](ValueId id) {
                          return read[static_cast<std::size_t>(id)];
                        });
    if (!needed) {
      remove[i] = true;
      ++result.nodes_matched;
      ++result.nodes_removed;
      continue;
    }
    for (const ValueId input : node.inputs) read[static_cast<std::size_t>(input)] = true;
  }
  remove_nodes(graph, remove);
  return result;
}

}  // namespace rondo
