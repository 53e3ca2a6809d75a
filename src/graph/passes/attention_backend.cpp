#include "graph/passes/attention_backend.h"

#include "attention/attention_op.h"

namespace rondo {

void set_attention_backend(Graph& graph, const std::string& backend) {
  for (Node& node : graph.nodes) {
    if (const auto* op = dynamic_cast<const AttentionOp*>(node.op.get()))
      node.op = std::make_shared<const AttentionOp>(op->scale(), op->causal(), backend);
  }
}

}  // namespace rondo
