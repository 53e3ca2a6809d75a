#include "graph/passes/concat_in_place.h"

#include <algorithm>
#include <optional>
#include <set>
#include <string_view>
#include <vector>

#include "graph/buffer_layout.h"
#include "ops/layout.h"

namespace rondo {
namespace {

/// The value whose memory a reshape or slice looks at.
ValueId looked_at(const Graph& graph, ValueId id) {
  while (true) {
    const Value& value = graph.values[static_cast<std::size_t>(id)];
    if (value.kind != ValueKind::computed) return id;
    const Node& producer = graph.nodes[static_cast<std::size_t>(value.producer)];
    const bool is_view = dynamic_cast<const ReshapeOp*>(producer.op.get()) != nullptr ||
                         dynamic_cast<const SliceOp*>(producer.op.get()) != nullptr;
    if (!is_view) return id;
    id = producer.inputs[0];
  }
}

/// Collects what the inputs compute; the reason why not where one cannot be written in place.
std::optional<std::string_view> find_parts(const Graph& graph, const Node& node, std::set<ValueId>& parts) {
  for (std::size_t i = 0; i < node.inputs.size(); ++i) {
    const auto part = concat_part(graph, node, i);
    if (!part) return "a part is not computed (a slice, an input), or by a node that cannot leave gaps between rows";
    const bool is_output = std::any_of(graph.outputs.begin(), graph.outputs.end(), [&](const NamedValue& output) {
      return looked_at(graph, output.value) == part->computed;
    });
    if (is_output) return "a part is an output of the graph";
    if (!parts.insert(part->computed).second) return "a part is joined twice";
  }
  return std::nullopt;
}

}  // namespace

PassResult write_concats_in_place(Graph& graph) {
  PassResult result;
  std::set<ValueId> placed;
  for (Node& node : graph.nodes) {
    const auto* concat = dynamic_cast<const ConcatOp*>(node.op.get());
    if (concat == nullptr || concat->parts_in_place()) continue;
    std::set<ValueId> parts = placed;
    if (const auto reason = find_parts(graph, node, parts)) {
      result.miss(graph, node.outputs[0], *reason);
      continue;
    }
    placed = std::move(parts);
    node.op = std::make_shared<const ConcatOp>(concat->axis(), true);
    result.matched(1, 0);
  }
  return result;
}

}  // namespace rondo
