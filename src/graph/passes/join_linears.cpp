#include "graph/passes/join_linears.h"

#include <fmt/format.h>

#include <map>

#include "graph/passes/rewrite.h"
#include "ops/layout.h"
#include "ops/linear.h"

namespace rondo {
namespace {

/// What linears must have in common to become one.
struct Key {
  std::size_t segment;  // what works on segments expects a block's weights in its block
  ValueId input;
  bool has_bias;
  std::string attributes;
  DType dtype;
  auto operator<=>(const Key&) const = default;  // NOLINT(modernize-use-nullptr): clang-tidy 14 misreads it
};

Value& value_of(Graph& graph, ValueId id) { return graph.values[static_cast<std::size_t>(id)]; }

std::size_t segment_of(const Graph& graph, NodeId node) {
  for (std::size_t i = 0; i < graph.segments.size(); ++i) {
    if (node < graph.segments[i].end) return i;
  }
  return graph.segments.size();
}

bool reads_weights_only(Graph& graph, const Node& node) {
  for (std::size_t i = 1; i < node.inputs.size(); ++i) {
    const Value& value = value_of(graph, node.inputs[i]);
    if (value.kind != ValueKind::weight || !value.parts.empty()) return false;
  }
  return true;
}

/// A weight whose rows are those of `names`, one after the other.
ValueId stacked_weight(Graph& graph, const std::vector<ValueId>& weights) {
  Value stacked = value_of(graph, weights[0]);
  stacked.type.shape[0] = 0;
  for (const ValueId id : weights) {
    const Value& part = value_of(graph, id);
    stacked.type.shape[0] += part.type.shape[0];
    stacked.parts.push_back(part.name);
  }
  stacked.name = fmt::format("{}", fmt::join(stacked.parts, " + "));
  graph.values.push_back(std::move(stacked));
  return static_cast<ValueId>(graph.values.size() - 1);
}

}  // namespace

PassResult join_linears(Graph& graph, const PassContext& context) {
  PassResult result;
  // CPUs below AVX-512 use weights where they are mapped; putting them together would copy them.
  if (context.is_cpu_below(CpuLevel::avx512)) return result;
  std::map<Key, std::vector<NodeId>> groups;
  for (std::size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& node = graph.nodes[i];
    if (dynamic_cast<const LinearOp*>(node.op.get()) == nullptr || !reads_weights_only(graph, node)) continue;
    const DType dtype = value_of(graph, node.inputs[1]).type.dtype;
    groups[{segment_of(graph, static_cast<NodeId>(i)), node.inputs[0], node.inputs.size() == 3, node.op->attributes(),
            dtype}]
        .push_back(static_cast<NodeId>(i));
  }
  // Nodes are put before the first of their group, whose place becomes the product: later ones turn into cuts of it.
  std::vector<std::vector<Node>> added(graph.nodes.size());
  std::vector<bool> remove(graph.nodes.size(), false);
  for (const auto& group : groups) {
    const Key& key = group.first;
    const std::vector<NodeId>& members = group.second;
    if (members.size() < 2) continue;
    const auto gather = [&](std::size_t input) {
      std::vector<ValueId> weights;
      for (const NodeId id : members) weights.push_back(graph.nodes[static_cast<std::size_t>(id)].inputs[input]);
      return stacked_weight(graph, weights);
    };
    const auto first = static_cast<std::size_t>(members[0]);
    Node product{graph.nodes[first].op, {key.input, gather(1)}, {}};
    if (key.has_bias) product.inputs.push_back(gather(2));
    Value whole = value_of(graph, graph.nodes[first].outputs[0]);
    const std::size_t last_axis = whole.type.shape.rank() - 1;
    whole.type.shape[last_axis] = value_of(graph, product.inputs[1]).type.shape[0];
    graph.values.push_back(whole);
    const auto joined = static_cast<ValueId>(graph.values.size() - 1);
    product.outputs = {joined};
    added[first].push_back(product);
    std::int64_t begin = 0;
    for (const NodeId id : members) {
      const Node& member = graph.nodes[static_cast<std::size_t>(id)];
      const std::int64_t width = value_of(graph, member.outputs[0]).type.shape.back();
      added[first].push_back(
          {std::make_shared<const SliceOp>(last_axis, begin, begin + width), {joined}, member.outputs});
      remove[static_cast<std::size_t>(id)] = true;
      begin += width;
    }
    result.matched(static_cast<int>(members.size()), 1);
  }
  replace_nodes(graph, remove, added);
  return result;
}

}  // namespace rondo
