#include "graph/buffer_layout.h"

#include <algorithm>
#include <array>

#include "ops/layout.h"

namespace rondo {
namespace {

std::size_t at(ValueId id) { return static_cast<std::size_t>(id); }

bool is_written_in_place(const Node& node) {
  const auto* concat = dynamic_cast<const ConcatOp*>(node.op.get());
  return concat != nullptr && concat->parts_in_place();
}

void describe_values(const Graph& graph, BufferLayout& layout) {
  for (const Value& value : graph.values) {
    const bool known = value.kind == ValueKind::constant && value.type.device.is_cpu();
    layout.prototypes.push_back(known ? value.constant
                                      : Tensor::borrow(nullptr, value.type.shape, value.type.dtype, value.type.device));
  }
  layout.is_view.resize(graph.values.size(), false);
  layout.offsets.resize(graph.values.size(), 0);
}

/// The concatenation in whose buffer a value lies; -1 for most.
std::vector<ValueId> place_parts(const Graph& graph, BufferLayout& layout) {
  std::vector<ValueId> whole(graph.values.size(), -1);
  for (const Node& node : graph.nodes) {
    if (!is_written_in_place(node)) continue;
    for (std::size_t i = 0; i < node.inputs.size(); ++i) {
      const ConcatPart part = concat_part(graph, node, i).value();
      layout.prototypes[at(part.computed)] = part.prototype;
      layout.offsets[at(part.computed)] = static_cast<std::size_t>(part.offset) * dtype_size(part.prototype.dtype());
      whole[at(part.computed)] = node.outputs[0];
    }
    layout.is_view[at(node.outputs[0])] = true;
  }
  return whole;
}

void find_views(const Graph& graph, BufferLayout& layout) {
  for (const Node& node : graph.nodes) {
    if (node.inputs.empty()) continue;
    if (const auto view = node.op->view(layout.prototypes[at(node.inputs[0])])) {
      layout.prototypes[at(node.outputs[0])] = *view;
      layout.is_view[at(node.outputs[0])] = true;
    }
  }
}

/// Gives buffers to values and tracks, through views, from which node to which a buffer is in use.
class BufferAssigner {
 public:
  BufferAssigner(const Graph& graph, BufferLayout& layout, const std::vector<ValueId>& whole, bool for_device)
      : graph_(graph), layout_(layout), whole_(whole), for_device_(for_device), buffer_of_(graph.values.size(), -1) {
    layout_.buffers.resize(graph.values.size(), -1);
    find_last_readers();
  }

  /// Of the values on the graph's own device, and of those on the host.
  std::array<std::vector<BufferLife>, 2> assign() {
    // Inputs are written before the first run and keep their values from run to run.
    for (const NamedValue& input : graph_.inputs) add(input.value, -1);
    for (std::size_t i = 0; i < graph_.nodes.size(); ++i) {
      const Node& node = graph_.nodes[i];
      const auto step = static_cast<int>(i);
      if (is_written_in_place(node)) {
        for (const ValueId id : node.inputs) keep_until(id, step);
      } else if (layout_.is_view[at(node.outputs[0])]) {
        buffer_of_[at(node.outputs[0])] = buffer_of_[at(node.inputs[0])];
      } else {
        for (const ValueId id : node.outputs) place(id, node, step);
        for (const ValueId id : node.inputs) keep_until(id, step);
      }
    }
    const auto end = static_cast<int>(graph_.nodes.size());
    for (const NamedValue& input : graph_.inputs) keep_until(input.value, end);
    for (const NamedValue& output : graph_.outputs) keep_until(output.value, end);
    return std::move(lives_);
  }

 private:
  /// The value whose memory a value looks at.
  ValueId root(ValueId id) const {
    while (layout_.is_view[at(id)] || whole_[at(id)] >= 0) {
      if (whole_[at(id)] >= 0) {
        id = whole_[at(id)];
        continue;
      }
      const Node& node = graph_.nodes[at(graph_.values[at(id)].producer)];
      if (is_written_in_place(node)) return id;
      id = node.inputs[0];
    }
    return id;
  }

  void find_last_readers() {
    last_reader_.resize(graph_.values.size(), -1);
    for (std::size_t i = 0; i < graph_.nodes.size(); ++i) {
      for (const ValueId id : graph_.nodes[i].inputs) last_reader_[at(root(id))] = static_cast<int>(i);
    }
    for (const auto* kept : {&graph_.inputs, &graph_.outputs}) {
      for (const NamedValue& named : *kept) last_reader_[at(root(named.value))] = static_cast<int>(graph_.nodes.size());
    }
  }

  void place(ValueId id, const Node& node, int step) {
    if (const ValueId whole = whole_[at(id)]; whole >= 0) {
      if (layout_.buffers[at(whole)] < 0) add(whole, step);
      share(id, whole);
    } else if (const auto over = overwritten(node, step); over && id == node.outputs[0]) {
      share(id, *over);
    } else {
      add(id, step);
    }
  }

  /// The value whose buffer the node's output may take over: read for the last time, by this node, as a whole, once.
  std::optional<ValueId> overwritten(const Node& node, int step) const {
    if (node.op->overwritable_input() < 0) return std::nullopt;
    const auto index = static_cast<std::size_t>(node.op->overwritable_input());
    const ValueId memory = root(node.inputs[index]);
    const Tensor& input = layout_.prototypes[at(node.inputs[index])];
    const Tensor& output = layout_.prototypes[at(node.outputs[0])];
    const bool whole = input.is_dense() && input.dtype() == output.dtype() &&
                       input.elements() == layout_.prototypes[at(memory)].elements();
    const auto readers =
        std::count_if(node.inputs.begin(), node.inputs.end(), [&](ValueId other) { return root(other) == memory; });
    if (layout_.buffers[at(memory)] < 0 || last_reader_[at(memory)] != step || !whole || readers != 1)
      return std::nullopt;
    return memory;
  }

  /// What looks at a value's memory lies on its device too.
  std::vector<BufferLife>& lives_of(ValueId id) {
    const bool on_host = for_device_ && graph_.values[at(id)].type.device.is_cpu();
    return lives_[on_host ? 1 : 0];
  }
  void add(ValueId id, int step) {
    const TensorType& type = graph_.values[at(id)].type;
    std::vector<BufferLife>& lives = lives_of(id);
    lives.push_back({static_cast<std::size_t>(type.shape.elements()) * dtype_size(type.dtype), step, step});
    buffer_of_[at(id)] = layout_.buffers[at(id)] = static_cast<std::int32_t>(lives.size() - 1);
  }
  void share(ValueId id, ValueId owner) { buffer_of_[at(id)] = layout_.buffers[at(id)] = layout_.buffers[at(owner)]; }
  void keep_until(ValueId id, int step) {
    if (buffer_of_[at(id)] < 0) return;
    BufferLife& life = lives_of(id)[static_cast<std::size_t>(buffer_of_[at(id)])];
    life.last = std::max(life.last, step);
  }

  const Graph& graph_;
  BufferLayout& layout_;
  const std::vector<ValueId>& whole_;
  bool for_device_;
  std::vector<std::int32_t> buffer_of_;  // views' too
  std::vector<int> last_reader_;         // of a root, through all that look at it
  std::array<std::vector<BufferLife>, 2> lives_;
};

/// True when the node computes into memory of its own and can do so into `target`.
bool can_write(const Node& node, const Tensor& target) {
  if (dynamic_cast<const SliceOp*>(node.op.get()) != nullptr || is_written_in_place(node)) return false;
  switch (node.op->row_gaps()) {
    case RowGaps::anywhere: return true;
    case RowGaps::between_batches: return target.shape().rank() > 1 && target.sliced(0, 0, 1).is_dense();
    case RowGaps::none: return target.is_dense();
  }
  return false;
}

}  // namespace

std::optional<ConcatPart> concat_part(const Graph& graph, const Node& node, std::size_t index) {
  const auto& concat = static_cast<const ConcatOp&>(*node.op);
  const auto type = [&](ValueId id) -> const TensorType& { return graph.values[at(id)].type; };
  const auto extent = [&](ValueId id) { return type(id).shape[concat.axis()]; };
  std::int64_t begin = 0;
  for (std::size_t i = 0; i < index; ++i) begin += extent(node.inputs[i]);
  ValueId id = node.inputs[index];
  const Tensor whole = Tensor::borrow(nullptr, type(node.outputs[0]).shape, type(id).dtype, type(id).device);
  std::optional<Tensor> part = whole.sliced(concat.axis(), begin, begin + extent(id));
  while (true) {
    const Value& value = graph.values[at(id)];
    if (value.kind != ValueKind::computed) return std::nullopt;
    const Node& producer = graph.nodes[at(value.producer)];
    if (dynamic_cast<const ReshapeOp*>(producer.op.get()) == nullptr) {
      if (!can_write(producer, *part)) return std::nullopt;
      return ConcatPart{id, *part, begin * whole.strides()[concat.axis()]};
    }
    id = producer.inputs[0];
    part = view_as(*part, type(id).shape);
    if (!part) return std::nullopt;
  }
}

BufferLayout lay_out_buffers(const Graph& graph, bool for_device) {
  BufferLayout layout;
  describe_values(graph, layout);
  const std::vector<ValueId> whole = place_parts(graph, layout);
  find_views(graph, layout);
  const auto [lives, host_lives] = BufferAssigner(graph, layout, whole, for_device).assign();
  layout.memory = plan_memory(lives);
  layout.host_memory = plan_memory(host_lives);
  return layout;
}

}  // namespace rondo
