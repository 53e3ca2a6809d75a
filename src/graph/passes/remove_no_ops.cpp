#include "graph/passes/remove_no_ops.h"

#include <algorithm>

#include "graph/passes/rewrite.h"
#include "ops/elementwise.h"
#include "ops/layout.h"

namespace rondo {
namespace {

/// Operators that hand on their input's elements in their order.
bool hands_on(const Node& node) {
  const Operator* op = node.op.get();
  return node.inputs.size() == 1 &&
         (dynamic_cast<const ReshapeOp*>(op) != nullptr || dynamic_cast<const SliceOp*>(op) != nullptr ||
          dynamic_cast<const CastOp*>(op) != nullptr || dynamic_cast<const ConcatOp*>(op) != nullptr);
}

}  // namespace

PassResult remove_no_ops(Graph& graph) {
  PassResult result;
  std::vector<bool> remove(graph.nodes.size(), false);
  for (std::size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& node = graph.nodes[i];
    if (!hands_on(node)) continue;
    const ValueId from = node.outputs[0];
    const Value& input = graph.values[static_cast<std::size_t>(node.inputs[0])];
    if (!(input.type == graph.values[static_cast<std::size_t>(from)].type)) continue;
    const bool is_output = std::any_of(graph.outputs.begin(), graph.outputs.end(),
                                       [&](const NamedValue& output) { return output.value == from; });
    if (is_output && input.kind != ValueKind::computed) {
      result.miss(graph, from, "an output is to be computed, not an input or a weight");
      continue;
    }
    replace_value(graph, from, node.inputs[0]);
    remove[i] = true;
    result.matched(1, 0);
  }
  remove_nodes(graph, remove);
  return result;
}

}  // namespace rondo
