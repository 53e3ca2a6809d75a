#include "graph/passes/quantize_linears.h"

#include "ops/linear.h"

namespace rondo {

PassResult quantize_linears(Graph& graph, const PassContext& context) {
  PassResult result;
  for (Node& node : graph.nodes) {
    const auto* linear = dynamic_cast<const LinearOp*>(node.op.get());
    if (linear == nullptr) continue;
    const Value& weight = graph.values[static_cast<std::size_t>(node.inputs[1])];
    if (weight.kind != ValueKind::weight) {
      result.miss(graph, node.outputs[0], "the weight is computed");
      continue;
    }
    const std::string layer = layer_of_weight(weight.name);
    LayerDecision decision = decide_layer(context.quantization, layer, weight.type.shape[1]);
    if (!decision.quantization) {
      result.near_misses.push_back(layer + ": " + decision.reason);
      continue;
    }
    // Below VNNI CPUs sum pairs of products of 8 bits in 16 bits, which weights of 7 bits cannot overflow.
    if (decision.quantization->format == LinearFormat::w8a8 && context.is_cpu_below(CpuLevel::avx512_vnni))
      decision.quantization->weight_limit = 63;
    node.op = std::make_shared<const LinearOp>(linear->activation(), std::move(decision.quantization), linear->gated());
    result.matched(1, 1);
  }
  return result;
}

}  // namespace rondo
