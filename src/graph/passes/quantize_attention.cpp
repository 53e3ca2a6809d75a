#include "graph/passes/quantize_attention.h"

#include "attention/attention_op.h"
#include "backends/attention_backends.h"

namespace rondo {

namespace {

/// Cross-attention, mostly over a short text, costs little and is not quantised. It is told by its number of tokens.
bool has_keys_of_its_queries(const Graph& graph, const Node& node) {
  const auto tokens = [&](std::size_t input) {
    return graph.values[static_cast<std::size_t>(node.inputs[input])].type.shape[1];
  };
  return tokens(0) == tokens(1);
}

}  // namespace

PassResult quantize_attention(Graph& graph, const KvCachePolicy& policy) {
  PassResult result;
  int layer = 0;
  for (Node& node : graph.nodes) {
    const auto* op = dynamic_cast<const AttentionOp*>(node.op.get());
    if (op == nullptr) continue;
    // A kernel that is named and takes quantised operands only says nothing of the others.
    const std::string& named = op->request().backend;
    const bool takes_native =
        named.empty() || attention_registry().find(named, "the call")->takes(KvCacheDtype::automatic);
    const std::string native_backend = takes_native ? named : "";
    const bool is_cross = !has_keys_of_its_queries(graph, node);
    if (is_cross || policy.skips_layer(layer)) {
      AttentionRequest request = op->request();
      request.backend = native_backend;
      node.op = op->with(std::move(request));
      result.miss(graph, node.outputs[0],
                  fmt::format("layer {}: {}", layer,
                              is_cross ? "attends to other tokens than its own" : "kv-cache-skip-layers names it"));
    } else {
      AttentionRequest request = op->request();
      request.quantization = policy.quantization;
      request.native_steps = policy.skip_steps;
      request.native_backend = native_backend;
      node.op = op->with(std::move(request));
      result.matched(1, 1);
    }
    ++layer;
  }
  return result;
}

}  // namespace rondo
