#include "graph/passes/quantize_attention.h"

#include "attention/attention_op.h"

namespace rondo {

PassResult quantize_attention(Graph& graph, const KvCachePolicy& policy) {
  PassResult result;
  result.name = "quantize-attention";
  int layer = 0;
  for (Node& node : graph.nodes) {
    const auto* op = dynamic_cast<const AttentionOp*>(node.op.get());
    if (op == nullptr) continue;
    if (policy.skips_layer(layer)) {
      result.miss(graph, node.outputs[0], fmt::format("layer {}: kv-cache-skip-layers names it", layer));
    } else {
      AttentionRequest request = op->request();
      request.kv_cache = policy.dtype;
      request.rotates = policy.rotates;
      request.native_steps = policy.skip_steps;
      node.op = std::make_shared<const AttentionOp>(op->scale(), op->causal(), std::move(request));
      result.matched(1, 1);
    }
    ++layer;
  }
  return result;
}

}  // namespace rondo
