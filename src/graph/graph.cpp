#include "graph/graph.h"

#include <fmt/format.h>

namespace rondo {
namespace {

std::string describe(const Graph& graph, ValueId id) {
  const Value& value = graph.values[static_cast<std::size_t>(id)];
  return value.name.empty() ? fmt::format("%{}", id) : fmt::format("%{} ({})", id, value.name);
}

}  // namespace

std::vector<TensorType> Graph::input_types(const Node& node) const {
  std::vector<TensorType> types;
  for (const ValueId id : node.inputs) types.push_back(values[static_cast<std::size_t>(id)].type);
  return types;
}

std::string Graph::to_string() const {
  std::string text;
  for (const NamedValue& input : inputs) {
    text += fmt::format("input %{} {}: {}\n", input.value, input.name,
                        values[static_cast<std::size_t>(input.value)].type.to_string());
  }
  std::size_t next_segment = 0;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    while (next_segment < segments.size() && segments[next_segment].begin == static_cast<NodeId>(i)) {
      text += fmt::format("# {} {}\n", segments[next_segment].kind, segments[next_segment].index);
      ++next_segment;
    }
    const Node& node = nodes[i];
    std::vector<std::string> sources;
    for (const ValueId id : node.inputs) sources.push_back(describe(*this, id));
    std::vector<std::string> targets;
    for (const ValueId id : node.outputs) {
      targets.push_back(fmt::format("%{}: {}", id, values[static_cast<std::size_t>(id)].type.to_string()));
    }
    const std::string attributes = node.op->attributes();
    text += fmt::format("{} = {}{}({})\n", fmt::join(targets, ", "), node.op->name(),
                        attributes.empty() ? "" : "[" + attributes + "]", fmt::join(sources, ", "));
  }
  for (const NamedValue& output : outputs) text += fmt::format("output {} = %{}\n", output.name, output.value);
  return text;
}

}  // namespace rondo
