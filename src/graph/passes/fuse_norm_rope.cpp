#include "graph/passes/fuse_norm_rope.h"

#include <algorithm>

#include "graph/passes/rewrite.h"
#include "ops/fused_norms.h"
#include "ops/layout.h"
#include "ops/norms.h"
#include "ops/rope.h"

namespace rondo {
namespace {

constexpr std::size_t kTokenAxis = 1;

/// Turns the rms_norm node into norm and rotation by these tables.
void fuse_into(Node& norm, RotaryMode mode, ValueId cos, ValueId sin) {
  const double eps = static_cast<const RmsNormOp&>(*norm.op).eps();
  std::vector<ValueId> inputs{norm.inputs[0], cos, sin};
  inputs.insert(inputs.end(), norm.inputs.begin() + 1, norm.inputs.end());
  norm.op = std::make_shared<const RmsNormRopeOp>(eps, mode);
  norm.inputs = std::move(inputs);
}

bool is_constant(const Graph& graph, ValueId id) {
  return graph.values[static_cast<std::size_t>(id)].kind == ValueKind::constant;
}

/// Rows [begin, end) of a constant table.
ValueId table_part(Graph& graph, ValueId table, std::int64_t begin, std::int64_t end) {
  const Tensor whole = graph.values[static_cast<std::size_t>(table)].constant;
  if (begin == 0 && end == whole.shape()[0]) return table;
  return add_constant(graph, whole.sliced(0, begin, end));
}

}  // namespace

PassResult fuse_norm_ropes(Graph& graph) {
  PassResult result;
  const GraphReaders readers(graph);
  std::vector<bool> remove(graph.nodes.size(), false);
  const std::size_t count = graph.nodes.size();
  for (std::size_t i = 0; i < count; ++i) {
    const auto* rope = dynamic_cast<const RopeOp*>(graph.nodes[i].op.get());
    if (rope == nullptr) continue;
    const RotaryMode mode = rope->mode();
    const ValueId turned = graph.nodes[i].inputs[0];
    const ValueId cos = graph.nodes[i].inputs[1];
    const ValueId sin = graph.nodes[i].inputs[2];
    std::vector<ValueId> normed{turned};
    if (const auto* concat = readers.only_reader_of<ConcatOp>(turned)) {
      if (concat->axis() != kTokenAxis || !is_constant(graph, cos) || !is_constant(graph, sin)) {
        result.miss(graph, turned, "rope's input is joined along another axis than the tokens, or its tables vary");
        continue;
      }
      normed = readers.producer(turned)->inputs;
    }
    const bool all = std::all_of(normed.begin(), normed.end(),
                                 [&](ValueId id) { return readers.only_reader_of<RmsNormOp>(id) != nullptr; });
    if (!all) {
      result.miss(graph, turned, "rope's input is no rms_norm that is read once, nor a concatenation of such");
      continue;
    }
    std::int64_t first = 0;
    for (const ValueId id : normed) {
      const std::int64_t tokens = graph.values[static_cast<std::size_t>(id)].type.shape[kTokenAxis];
      const ValueId part_cos = normed.size() == 1 ? cos : table_part(graph, cos, first, first + tokens);
      const ValueId part_sin = normed.size() == 1 ? sin : table_part(graph, sin, first, first + tokens);
      fuse_into(graph.nodes[static_cast<std::size_t>(readers.producer_id(id))], mode, part_cos, part_sin);
      first += tokens;
    }
    replace_value(graph, graph.nodes[i].outputs[0], turned);
    remove[i] = true;
    result.matched(static_cast<int>(normed.size()) + 1, static_cast<int>(normed.size()));
  }
  remove_nodes(graph, remove);
  return result;
}

}  // namespace rondo
