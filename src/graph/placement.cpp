#include "graph/placement.h"

#include <fmt/format.h>

#include <map>
#include <set>

#include "core/text.h"
#include "graph/buffer_layout.h"
#include "ops/layout.h"
#include "rondo/error.h"

namespace rondo {
namespace {

std::size_t at(ValueId id) { return static_cast<std::size_t>(id); }

/// Builds the placed graph node by node.
class Placer {
 public:
  Placer(Graph& graph, const ExecutionDevice& device, int threads, const std::string& no_messages)
      : graph_(graph), device_(device), threads_(threads), no_messages_(no_messages), layout_(lay_out_buffers(graph)) {
    on_device_.resize(graph.values.size(), false);
  }

  Placement run() {
    std::vector<Node> old_nodes;
    old_nodes.swap(graph_.nodes);
    std::vector<NodeId> begins;  // where each old node's new ones begin
    for (const Node& node : old_nodes) {
      begins.push_back(static_cast<NodeId>(graph_.nodes.size()));
      place(node);
    }
    begins.push_back(static_cast<NodeId>(graph_.nodes.size()));
    for (Segment& segment : graph_.segments) {
      segment.begin = begins[at(segment.begin)];
      segment.end = begins[at(segment.end)];
    }
    for (NamedValue& output : graph_.outputs) output.value = on(output.value, false);
    tell_missing();
    return std::move(placement_);
  }

 private:
  void place(Node node) {
    const bool to_device = belongs_on_device(node);
    for (ValueId& input : node.inputs) input = on(input, to_device);
    for (const ValueId output : node.outputs) set_side(output, to_device);
    const auto id = static_cast<NodeId>(graph_.nodes.size());
    for (const ValueId output : node.outputs) graph_.values[at(output)].producer = id;
    graph_.nodes.push_back(std::move(node));
  }

  bool belongs_on_device(const Node& node) {
    if (layout_.is_view[at(node.outputs[0])]) {
      const bool in_place_concat = dynamic_cast<const ConcatOp*>(node.op.get()) != nullptr;
      const ValueKind kind = graph_.values[at(node.inputs[0])].kind;
      // Of a weight or constant: there is one on either side, without a copy a run.
      return in_place_concat || kind == ValueKind::weight || kind == ValueKind::constant || side_of(node.inputs[0]);
    }
    const auto refusals = refusals_of(*node.op, node);
    if (!refusals) {
      ++placement_.nodes_on_device;
      return true;
    }
    ++placement_.nodes_on_cpu;
    missing_[{std::string(node.op->name()), *refusals}].insert(graph_.values[at(node.outputs[0])].type.to_string());
    return false;
  }

  /// A line for each operator and reason.
  void tell_missing() {
    for (const auto& [what, types] : missing_) {
      const std::string others = types.size() > 1 ? fmt::format(" and {} more", types.size() - 1) : "";
      placement_.missing.push_back(fmt::format("{} ({}{}): {}", what.first, *types.begin(), others, what.second));
    }
  }

  /// Why the device cannot; nothing where it can.
  std::optional<std::string> refusals_of(const Operator& op, const Node& node) {
    if (!no_messages_.empty() && (op.name() == "exchange" || op.name() == "wait")) return no_messages_;
    const auto on_device = [&](ValueId id) {
      const Tensor& p = layout_.prototypes[at(id)];
      return Tensor::borrow(nullptr, p.shape(), p.dtype(), device_.device()).restrided(p.shape(), p.strides());
    };
    std::vector<KernelInput> inputs;
    for (const ValueId id : node.inputs) {
      const Value& value = graph_.values[at(id)];
      inputs.push_back({on_device(id), value.kind == ValueKind::weight ? value.name : ""});
    }
    std::vector<Tensor> outputs;
    for (const ValueId id : node.outputs) outputs.push_back(on_device(id));
    try {
      select_kernel(device_.kernels(), {op, inputs, outputs, threads_, no_weights_, &device_});
      if (op.fallback() != nullptr) return refusals_of(*op.fallback(), node);
    } catch (const Unsupported& refusal) {
      return refusal.what();
    }
    return std::nullopt;
  }

  /// Computed values lie where their node ran, the others on the CPU until somebody asks.
  bool side_of(ValueId id) const { return on_device_[at(id)]; }
  void set_side(ValueId id, bool on_device) {
    on_device_[at(id)] = on_device;
    if (on_device) graph_.values[at(id)].type.device = device_.device();
  }

  /// The value on one side or the other; a copy, made once, where it lies on the other.
  ValueId on(ValueId id, bool device_side) {
    if (side_of(id) == device_side) return id;
    const auto found = twins_.find(id);
    if (found != twins_.end()) return found->second;
    const auto twin = static_cast<ValueId>(graph_.values.size());
    Value value = graph_.values[at(id)];
    value.type.device = device_side ? device_.device() : Device{};
    const std::uint64_t bytes = static_cast<std::uint64_t>(value.type.shape.elements()) * dtype_size(value.type.dtype);
    if (value.kind == ValueKind::input || value.kind == ValueKind::computed) {
      const Device target = value.type.device;
      value = {ValueKind::computed, value.type, "", static_cast<NodeId>(graph_.nodes.size()), {}};
      graph_.nodes.push_back({std::make_shared<const DeviceCopyOp>(target), {id}, {twin}});
      ++(device_side ? placement_.copies_to_device : placement_.copies_to_cpu);
      (device_side ? placement_.bytes_to_device : placement_.bytes_to_cpu) += bytes;
    }
    graph_.values.push_back(std::move(value));
    on_device_.push_back(device_side);
    twins_[id] = twin;
    return twin;
  }

  Graph& graph_;
  const ExecutionDevice& device_;
  int threads_;
  const std::string& no_messages_;
  BufferLayout layout_;
  WeightStore no_weights_{nullptr};
  std::vector<bool> on_device_;
  std::map<ValueId, ValueId> twins_;
  Placement placement_;
  std::map<std::pair<std::string, std::string>, std::set<std::string>> missing_;  // operator and reason: types
};

}  // namespace

std::string Placement::to_string(const Device& device) const {
  return fmt::format("{} nodes on {}, {} on the CPU; copies a run: {} to the device ({}), {} back ({})",
                     nodes_on_device, rondo::to_string(device), nodes_on_cpu, copies_to_device,
                     human_bytes(bytes_to_device), copies_to_cpu, human_bytes(bytes_to_cpu));
}

Placement place_on_device(Graph& graph, const ExecutionDevice& device, int threads, const std::string& no_messages) {
  return Placer(graph, device, threads, no_messages).run();
}

}  // namespace rondo
