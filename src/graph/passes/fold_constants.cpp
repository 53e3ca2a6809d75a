#include "graph/passes/fold_constants.h"

#include <algorithm>

#include "graph/passes/rewrite.h"

namespace rondo {
namespace {

/// Results are held in memory as long as the graph is.
constexpr std::int64_t kMostElements = std::int64_t{1} << 24;

}  // namespace

PassResult fold_constants(Graph& graph) {
  PassResult result;
  const auto value = [&](ValueId id) -> Value& { return graph.values[static_cast<std::size_t>(id)]; };
  std::vector<bool> remove(graph.nodes.size(), false);
  for (std::size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& node = graph.nodes[i];
    const auto is_constant = [&](ValueId id) { return value(id).kind == ValueKind::constant; };
    const auto is_small = [&](ValueId id) {
      return value(id).type.shape.elements() <= kMostElements && is_floating(value(id).type.dtype);
    };
    const auto is_output = [&](ValueId id) {
      return std::any_of(graph.outputs.begin(), graph.outputs.end(),
                         [&](const NamedValue& output) { return output.value == id; });
    };
    if (node.op->has_effect() || node.inputs.empty() ||
        !std::all_of(node.inputs.begin(), node.inputs.end(), is_constant))
      continue;
    if (!std::all_of(node.outputs.begin(), node.outputs.end(), is_small) ||
        std::any_of(node.outputs.begin(), node.outputs.end(), is_output)) {
      result.miss(graph, node.outputs[0], "the result is no floating one of at most 16 million elements, or an output");
      continue;
    }
    std::vector<RefTensor> inputs;
    for (const ValueId id : node.inputs) inputs.push_back(to_reference(value(id).constant));
    std::vector<RefTensor> outputs;
    for (const ValueId id : node.outputs) {
      const Shape& shape = value(id).type.shape;
      outputs.push_back({shape, std::vector<double>(static_cast<std::size_t>(shape.elements()))});
    }
    node.op->reference(inputs, outputs);
    for (std::size_t o = 0; o < outputs.size(); ++o) {
      Value& folded = value(node.outputs[o]);
      folded.kind = ValueKind::constant;
      folded.constant = from_reference(outputs[o], folded.type.dtype);
      folded.producer = kNoNode;
    }
    remove[i] = true;
    result.matched(1, 0);
  }
  // Removed nodes' outputs are constants now: nothing else may look for their producers.
  remove_nodes(graph, remove);
  return result;
}

}  // namespace rondo
