#include "graph/passes/fuse_swiglu.h"

#include <utility>
#include <vector>

#include "graph/passes/rewrite.h"
#include "ops/elementwise.h"
#include "ops/layout.h"

namespace rondo {
namespace {

/// True when `id` is the half of `whole` that begins at element `begin` of the last axis.
bool is_half(const Graph& graph, const GraphReaders& readers, ValueId id, ValueId whole, std::int64_t begin) {
  const auto* slice = readers.only_reader_of<SliceOp>(id);
  if (slice == nullptr || readers.producer(id)->inputs[0] != whole) return false;
  const Shape& shape = graph.values[static_cast<std::size_t>(whole)].type.shape;
  return slice->axis() == shape.rank() - 1 && slice->begin() == begin && slice->end() == begin + shape.back() / 2 &&
         shape.back() % 2 == 0;
}

}  // namespace

PassResult fuse_swiglus(Graph& graph) {
  PassResult result;
  const GraphReaders readers(graph);
  std::vector<bool> remove(graph.nodes.size(), false);
  for (Node& node : graph.nodes) {
    const auto* product = dynamic_cast<const BinaryOp*>(node.op.get());
    if (product == nullptr || product->kind() != BinaryKind::multiply) continue;
    for (const auto& [hidden, active] :
         {std::pair(node.inputs[0], node.inputs[1]), std::pair(node.inputs[1], node.inputs[0])}) {
      const auto* activation = readers.only_reader_of<ActivationOp>(active);
      if (activation == nullptr || activation->kind() != ActivationKind::silu) continue;
      const ValueId gate = readers.producer(active)->inputs[0];
      if (readers.only_reader_of<SliceOp>(gate) == nullptr) continue;
      const ValueId whole = readers.producer(gate)->inputs[0];
      const std::int64_t half = graph.values[static_cast<std::size_t>(whole)].type.shape.back() / 2;
      if (!is_half(graph, readers, hidden, whole, 0) || !is_half(graph, readers, gate, whole, half)) {
        result.miss(graph, node.outputs[0], "hidden and gate are not the two halves of one value, in this order");
        continue;
      }
      for (const ValueId id : {hidden, gate, active}) remove[static_cast<std::size_t>(readers.producer_id(id))] = true;
      node.op = std::make_shared<const SwigluOp>();
      node.inputs = {whole};
      result.matched(4, 1);
      break;
    }
  }
  remove_nodes(graph, remove);
  return result;
}

}  // namespace rondo
