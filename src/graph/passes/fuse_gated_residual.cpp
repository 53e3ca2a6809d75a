#include "graph/passes/fuse_gated_residual.h"

#include "graph/passes/rewrite.h"
#include "ops/linear.h"
#include "ops/modulation.h"

namespace rondo {

PassResult fuse_gated_residuals(Graph& graph) {
  PassResult result;
  const GraphReaders readers(graph);
  const auto type = [&](ValueId id) -> const TensorType& { return graph.values[static_cast<std::size_t>(id)].type; };
  std::vector<bool> remove(graph.nodes.size(), false);
  for (Node& node : graph.nodes) {
    if (dynamic_cast<const GatedAddOp*>(node.op.get()) == nullptr) continue;
    const ValueId residual = node.inputs[0];
    const ValueId gate = node.inputs[1];
    const ValueId product = node.inputs[2];
    const auto* linear = readers.only_reader_of<LinearOp>(product);
    if (linear == nullptr || linear->gated() || readers.producer(product)->inputs.size() != 3) {
      result.miss(graph, product, "what is gated is no linear with a bias that is read once");
      continue;
    }
    if (type(gate).shape == type(product).shape || type(gate).dtype != type(product).dtype) {
      result.miss(graph, gate, "the gate differs from token to token, or is of another dtype");
      continue;
    }
    node.op = std::make_shared<const LinearOp>(linear->activation(), linear->quantization(), true);
    node.inputs = readers.producer(product)->inputs;
    node.inputs.insert(node.inputs.end(), {gate, residual});
    remove[static_cast<std::size_t>(readers.producer_id(product))] = true;
    result.matched(2, 1);
  }
  remove_nodes(graph, remove);
  return result;
}

}  // namespace rondo
