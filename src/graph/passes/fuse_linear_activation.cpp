#include "graph/passes/fuse_linear_activation.h"

#include "graph/passes/rewrite.h"
#include "ops/elementwise.h"
#include "ops/linear.h"

namespace rondo {

PassResult fuse_linear_activations(Graph& graph) {
  PassResult result;
  const GraphReaders readers(graph);
  std::vector<bool> remove(graph.nodes.size(), false);
  for (Node& node : graph.nodes) {
    const auto* activation = dynamic_cast<const ActivationOp*>(node.op.get());
    if (activation == nullptr) continue;
    const ValueId product = node.inputs[0];
    const auto* linear = readers.only_reader_of<LinearOp>(product);
    if (linear == nullptr || linear->activation() || linear->gated()) {
      result.miss(graph, product, "the activation's input is no linear that is read once");
      continue;
    }
    node.op = std::make_shared<const LinearOp>(activation->kind(), linear->quantization());
    node.inputs = readers.producer(product)->inputs;
    remove[static_cast<std::size_t>(readers.producer_id(product))] = true;
    result.matched(2, 1);
  }
  remove_nodes(graph, remove);
  return result;
}

}  // namespace rondo
