#include "graph/passes/attention_selection.h"

#include "attention/attention_op.h"

namespace rondo {

void request_attention(Graph& graph, const AttentionRequest& request) {
  for (Node& node : graph.nodes) {
    if (const auto* op = dynamic_cast<const AttentionOp*>(node.op.get()))
      node.op = std::make_shared<const AttentionOp>(op->scale(), op->causal(), request);
  }
}

}  // namespace rondo
