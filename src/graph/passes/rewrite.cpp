#include "graph/passes/rewrite.h"

#include <utility>

namespace rondo {

void remove_nodes(Graph& graph, const std::vector<bool>& remove) {
  std::vector<NodeId> moved(graph.nodes.size() + 1);
  std::vector<Node> kept;
  for (std::size_t i = 0; i < graph.nodes.size(); ++i) {
    moved[i] = static_cast<NodeId>(kept.size());
    if (remove[i]) continue;
    for (const ValueId output : graph.nodes[i].outputs)
      graph.values[static_cast<std::size_t>(output)].producer = moved[i];
    kept.push_back(std::move(graph.nodes[i]));
  }
  moved.back() = static_cast<NodeId>(kept.size());
  for (Segment& segment : graph.segments) {
    segment.begin = moved[static_cast<std::size_t>(segment.begin)];
    segment.end = moved[static_cast<std::size_t>(segment.end)];
  }
  graph.nodes = std::move(kept);
}

}  // namespace rondo
