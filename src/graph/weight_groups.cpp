#include "graph/weight_groups.h"

#include <fmt/format.h>

#include <algorithm>

#include "ops/linear.h"

namespace rondo {
namespace {

std::size_t at(ValueId id) { return static_cast<std::size_t>(id); }

constexpr int kNone = -1;
constexpr int kSeveral = -2;

bool is_view(const Graph& graph, const Node& node) {
  const TensorType& type = graph.values[at(node.inputs[0])].type;
  return node.op->view(Tensor::borrow(nullptr, type.shape, type.dtype)).has_value();
}

/// Of one weight, with the space between it and the next.
std::uint64_t bytes_of(const Value& weight, const Operator& op) {
  constexpr std::uint64_t kApart = 512;
  const auto elements = static_cast<std::uint64_t>(weight.type.shape.elements());
  // Vectors are small, and some kernels want them in float32.
  const std::uint64_t plain = elements * (weight.type.shape.rank() < 2 ? 4 : dtype_size(weight.type.dtype)) + kApart;
  const auto* const linear = dynamic_cast<const LinearOp*>(&op);
  if (linear == nullptr || !linear->quantization() || weight.type.shape.rank() < 2) return plain;
  // Integers and their scales, beside the weight itself for steps that run native.
  const std::uint64_t quantized =
      elements + elements / 8 + 4 * static_cast<std::uint64_t>(weight.type.shape[0]) + 2 * kApart;
  return quantized + (op.fallback() == nullptr ? 0 : plain);
}

}  // namespace

std::uint64_t WeightGroups::bytes() const {
  std::uint64_t sum = 0;
  for (const WeightGroup& group : groups) sum += group.bytes;
  return sum;
}

std::uint64_t WeightGroups::least_bytes() const {
  std::uint64_t largest = 0;
  for (const WeightGroup& group : groups) largest = std::max(largest, group.bytes);
  return std::min<std::uint64_t>(2, groups.size()) * largest;
}

WeightGroups group_weights(const Graph& graph) {
  WeightGroups result;
  result.of_node.assign(graph.nodes.size(), kNone);
  result.of_value.assign(graph.values.size(), kNone);
  std::vector<int> segment_of_node(graph.nodes.size(), kNone);
  for (std::size_t s = 0; s < graph.segments.size(); ++s) {
    for (NodeId node = graph.segments[s].begin; node < graph.segments[s].end; ++node)
      segment_of_node[static_cast<std::size_t>(node)] = static_cast<int>(s);
  }
  // The weight that a value is, or looks at through views; and who reads it.
  std::vector<ValueId> weight_of(graph.values.size(), kNone);
  std::vector<int> reader(graph.values.size(), kNone);
  for (std::size_t i = 0; i < graph.values.size(); ++i) {
    if (graph.values[i].kind == ValueKind::weight) weight_of[i] = static_cast<ValueId>(i);
  }
  for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
    const Node& node = graph.nodes[n];
    for (const ValueId input : node.inputs) {
      const ValueId weight = weight_of[at(input)];
      if (weight == kNone) continue;
      int& only = reader[at(weight)];
      only = only == kNone || only == segment_of_node[n] ? segment_of_node[n] : kSeveral;
      if (only == kNone) only = kSeveral;  // read outside of all segments
    }
    if (!node.inputs.empty() && weight_of[at(node.inputs[0])] != kNone && is_view(graph, node))
      weight_of[at(node.outputs[0])] = weight_of[at(node.inputs[0])];
  }
  std::vector<int> group_of_segment(graph.segments.size(), kNone);
  std::vector<bool> counted(graph.values.size(), false);
  for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
    for (const ValueId input : graph.nodes[n].inputs) {
      const ValueId weight = weight_of[at(input)];
      if (weight == kNone || reader[at(weight)] < 0) continue;
      const auto segment = static_cast<std::size_t>(segment_of_node[n]);
      if (group_of_segment[segment] == kNone) {
        group_of_segment[segment] = static_cast<int>(result.groups.size());
        result.groups.push_back({fmt::format("{} {}", graph.segments[segment].kind, graph.segments[segment].index)});
      }
      const int group = group_of_segment[segment];
      result.of_value[at(input)] = result.of_value[at(weight)] = group;
      if (!counted[at(weight)])
        result.groups[static_cast<std::size_t>(group)].bytes += bytes_of(graph.values[at(weight)], *graph.nodes[n].op);
      counted[at(weight)] = true;
    }
  }
  for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
    if (segment_of_node[n] != kNone) result.of_node[n] = group_of_segment[static_cast<std::size_t>(segment_of_node[n])];
  }
  return result;
}

std::vector<bool> groups_to_offload(const WeightGroups& weights, std::uint64_t budget) {
  const std::size_t count = weights.groups.size();
  std::vector<bool> leaves(count, false);
  for (std::size_t leaving = weights.bytes() <= budget ? 0 : 1; leaving <= count; ++leaving) {
    std::uint64_t staying_bytes = 0;
    std::uint64_t largest = 0;
    for (std::size_t i = 0; i < count; ++i) {
      leaves[i] = (i + 1) * leaving / count != i * leaving / count;
      if (leaves[i])
        largest = std::max(largest, weights.groups[i].bytes);
      else
        staying_bytes += weights.groups[i].bytes;
    }
    if (staying_bytes + std::min<std::uint64_t>(2, leaving) * largest <= budget) break;
  }
  return leaves;
}

}  // namespace rondo
