#include "graph/passes/rewrite.h"

#include <utility>

namespace rondo {

GraphReaders::GraphReaders(const Graph& graph) : graph_(graph), readers_(graph.values.size(), 0) {
  for (const Node& node : graph.nodes) {
    for (const ValueId input : node.inputs) ++readers_[static_cast<std::size_t>(input)];
  }
  for (const NamedValue& output : graph.outputs) ++readers_[static_cast<std::size_t>(output.value)];
}

const Node* GraphReaders::producer(ValueId id) const {
  const NodeId node = producer_id(id);
  return node == kNoNode ? nullptr : &graph_.nodes[static_cast<std::size_t>(node)];
}

void replace_value(Graph& graph, ValueId from, ValueId to) {
  for (Node& node : graph.nodes) {
    for (ValueId& input : node.inputs) input = input == from ? to : input;
  }
  for (NamedValue& output : graph.outputs) output.value = output.value == from ? to : output.value;
}

ValueId add_constant(Graph& graph, const Tensor& tensor) {
  graph.values.push_back({ValueKind::constant, {tensor.shape(), tensor.dtype(), tensor.device()}, "", kNoNode, tensor});
  return static_cast<ValueId>(graph.values.size() - 1);
}

void replace_nodes(Graph& graph, const std::vector<bool>& remove, std::vector<std::vector<Node>> added) {
  std::vector<NodeId> moved(graph.nodes.size() + 1);
  std::vector<Node> kept;
  const auto keep = [&](Node& node) {
    for (const ValueId output : node.outputs)
      graph.values[static_cast<std::size_t>(output)].producer = static_cast<NodeId>(kept.size());
    kept.push_back(std::move(node));
  };
  for (std::size_t i = 0; i < graph.nodes.size(); ++i) {
    moved[i] = static_cast<NodeId>(kept.size());
    for (Node& node : added[i]) keep(node);
    if (!remove[i]) keep(graph.nodes[i]);
  }
  moved.back() = static_cast<NodeId>(kept.size());
  for (Segment& segment : graph.segments) {
    segment.begin = moved[static_cast<std::size_t>(segment.begin)];
    segment.end = moved[static_cast<std::size_t>(segment.end)];
  }
  graph.nodes = std::move(kept);
}

void remove_nodes(Graph& graph, const std::vector<bool>& remove) {
  replace_nodes(graph, remove, std::vector<std::vector<Node>>(graph.nodes.size()));
}

}  // namespace rondo
