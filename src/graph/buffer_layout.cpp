#include "graph/buffer_layout.h"

#include <algorithm>

namespace rondo {
namespace {

std::size_t at(ValueId id) { return static_cast<std::size_t>(id); }

void find_views(const Graph& graph, BufferLayout& layout) {
  for (const Value& value : graph.values) {
    layout.prototypes.push_back(value.kind == ValueKind::constant
                                    ? value.constant
                                    : Tensor::borrow(nullptr, value.type.shape, value.type.dtype));
  }
  layout.is_view.resize(graph.values.size(), false);
  for (const Node& node : graph.nodes) {
    if (node.inputs.empty()) continue;
    if (const auto view = node.op->view(layout.prototypes[at(node.inputs[0])])) {
      layout.prototypes[at(node.outputs[0])] = *view;
      layout.is_view[at(node.outputs[0])] = true;
    }
  }
}

/// Tracks, through views, from which node to which a buffer is in use.
class LifeTracker {
 public:
  LifeTracker(const Graph& graph, BufferLayout& layout)
      : graph_(graph), layout_(layout), buffer_of_(graph.values.size(), -1) {
    layout_.buffers.resize(graph.values.size(), -1);
  }

  void add(ValueId id, int first, int last) {
    const TensorType& type = graph_.values[at(id)].type;
    lives_.push_back({static_cast<std::size_t>(type.shape.elements()) * dtype_size(type.dtype), first, last});
    buffer_of_[at(id)] = layout_.buffers[at(id)] = static_cast<std::int32_t>(lives_.size() - 1);
  }
  void alias(ValueId view, ValueId source) { buffer_of_[at(view)] = buffer_of_[at(source)]; }
  void keep_until(ValueId id, int node) {
    if (buffer_of_[at(id)] < 0) return;
    BufferLife& life = lives_[static_cast<std::size_t>(buffer_of_[at(id)])];
    life.last = std::max(life.last, node);
  }
  const std::vector<BufferLife>& lives() const { return lives_; }

 private:
  const Graph& graph_;
  BufferLayout& layout_;
  std::vector<std::int32_t> buffer_of_;
  std::vector<BufferLife> lives_;
};

}  // namespace

BufferLayout lay_out_buffers(const Graph& graph) {
  BufferLayout layout;
  find_views(graph, layout);
  const int end = static_cast<int>(graph.nodes.size());
  LifeTracker tracker(graph, layout);
  // Inputs are written before the first run and keep their values from run to run.
  for (const NamedValue& input : graph.inputs) tracker.add(input.value, -1, end);
  for (int i = 0; i < end; ++i) {
    const Node& node = graph.nodes[static_cast<std::size_t>(i)];
    if (layout.is_view[at(node.outputs[0])]) {
      tracker.alias(node.outputs[0], node.inputs[0]);
      continue;
    }
    for (const ValueId id : node.outputs) tracker.add(id, i, i);
    for (const ValueId id : node.inputs) tracker.keep_until(id, i);
  }
  for (const NamedValue& output : graph.outputs) tracker.keep_until(output.value, end);
  layout.memory = plan_memory(tracker.lives());
  return layout;
}

}  // namespace rondo
