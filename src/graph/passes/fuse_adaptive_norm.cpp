#include "graph/passes/fuse_adaptive_norm.h"

#include "graph/passes/rewrite.h"
#include "ops/fused_norms.h"
#include "ops/modulation.h"
#include "ops/norms.h"

namespace rondo {

PassResult fuse_adaptive_norms(Graph& graph) {
  PassResult result;
  const GraphReaders readers(graph);
  std::vector<bool> remove(graph.nodes.size(), false);
  for (Node& node : graph.nodes) {
    if (dynamic_cast<const ModulateOp*>(node.op.get()) == nullptr) continue;
    const ValueId normed = node.inputs[0];
    const auto* norm = readers.only_reader_of<LayerNormOp>(normed);
    if (norm == nullptr) {
      result.miss(graph, normed, "modulate's input is no layer_norm that is read once");
      continue;
    }
    const Node& source = *readers.producer(normed);
    std::vector<ValueId> inputs{source.inputs[0], node.inputs[1], node.inputs[2]};
    inputs.insert(inputs.end(), source.inputs.begin() + 1, source.inputs.end());
    node.op = std::make_shared<const LayerNormScaleShiftOp>(norm->eps());
    node.inputs = std::move(inputs);
    remove[static_cast<std::size_t>(readers.producer_id(normed))] = true;
    result.matched(2, 1);
  }
  remove_nodes(graph, remove);
  return result;
}

}  // namespace rondo
