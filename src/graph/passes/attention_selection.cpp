#include "graph/passes/attention_selection.h"

#include "attention/attention_op.h"

namespace rondo {

PassResult request_attention(Graph& graph, const AttentionRequest& request) {
  PassResult result;
  for (Node& node : graph.nodes) {
    const auto* op = dynamic_cast<const AttentionOp*>(node.op.get());
    if (op == nullptr) continue;
    node.op = op->with(request);
    result.matched(1, 1);
  }
  return result;
}

}  // namespace rondo
