#include "pipelines/node_events.h"

#include <fmt/format.h>

#include "ops/linear.h"
#include "ops/lookup.h"

namespace rondo {

double node_bytes(const Graph& graph, const Node& node) {
  const auto bytes_of = [&](ValueId id) {
    const TensorType& type = graph.values[static_cast<std::size_t>(id)].type;
    return static_cast<double>(type.shape.elements()) * static_cast<double>(dtype_size(type.dtype));
  };
  double bytes = 0;
  if (dynamic_cast<const EmbeddingOp*>(node.op.get()) != nullptr) return 2 * bytes_of(node.outputs[0]);
  for (const ValueId id : node.inputs) bytes += bytes_of(id);
  for (const ValueId id : node.outputs) bytes += bytes_of(id);
  const auto* linear = dynamic_cast<const LinearOp*>(node.op.get());
  if (linear == nullptr || !linear->quantization()) return bytes;
  const Shape& weight = graph.values[static_cast<std::size_t>(node.inputs[1])].type.shape;
  const double element = linear->quantization()->format == LinearFormat::w4a16 ? 0.5 : 1.0;
  return bytes - bytes_of(node.inputs[1]) + static_cast<double>(weight.elements()) * element;
}

std::string segment_of(const Graph& graph, NodeId node) {
  for (const Segment& segment : graph.segments) {
    if (node >= segment.begin && node < segment.end) return fmt::format("{} {}", segment.kind, segment.index);
  }
  return "";
}

std::vector<RunReport::Event> describe_events(std::span<const NodeEvent> events, int lane) {
  std::vector<RunReport::Event> described;
  for (const NodeEvent& event : events) {
    const Plan::Step& step = event.plan->steps()[event.step];
    const Graph& graph = event.plan->graph();
    const Node& node = event.plan->node(step);
    described.push_back({event.component, segment_of(graph, step.node), std::string(node.op->name()),
                         std::string(step.kernel_name),
                         graph.values[static_cast<std::size_t>(node.outputs[0])].type.to_string(), lane, event.start_ms,
                         event.duration_ms, node.op->flops(graph.input_types(node)), node_bytes(graph, node)});
  }
  return described;
}

}  // namespace rondo
