#include "graph/plan.h"

#include <algorithm>

#include "backends/cpu/kernels.h"
#include "core/log.h"
#include "core/threads.h"

namespace rondo {
namespace {

std::size_t at(ValueId id) { return static_cast<std::size_t>(id); }

/// True where all outputs are empty: a rank may hold no tokens, or no heads.
bool computes_nothing(const Graph& graph, const Node& node) {
  return !node.op->has_effect() && std::all_of(node.outputs.begin(), node.outputs.end(), [&](ValueId id) {
    return graph.values[at(id)].type.shape.elements() == 0;
  });
}

}  // namespace

Plan::Plan(Graph graph, std::vector<PassResult> passes, WeightStore& weights, int threads)
    : graph_(std::move(graph)),
      passes_(std::move(passes)),
      threads_(threads),
      layout_(lay_out_buffers(graph_)),
      resident_(graph_.values.size()) {
  const ThreadTeamScope team(threads_);
  for (const Value& value : graph_.values) {
    if (!value.parts.empty()) weights.stack(value.name, value.parts);
  }
  for (std::size_t i = 0; i < graph_.values.size(); ++i) {
    if (graph_.values[i].kind == ValueKind::constant) resident_[i] = graph_.values[i].constant;
  }
  for (std::size_t i = 0; i < graph_.nodes.size(); ++i) {
    const Node& node = graph_.nodes[i];
    if (layout_.is_view[at(node.outputs[0])]) {
      resolve_weight(node.inputs[0], weights);
      if (resident_[at(node.inputs[0])].defined()) {
        resident_[at(node.outputs[0])] = *node.op->view(resident_[at(node.inputs[0])]);
      }
    } else if (!computes_nothing(graph_, node)) {
      choose_kernel(static_cast<NodeId>(i), weights);
    }
  }
}

void Plan::resolve_weight(ValueId id, WeightStore& weights) {
  const Value& value = graph_.values[at(id)];
  if (value.kind == ValueKind::weight && !resident_[at(id)].defined())
    resident_[at(id)] = weights.get(value.name, value.type.dtype);
}

void Plan::choose_kernel(NodeId id, WeightStore& weights) {
  const Operator& op = *graph_.nodes[at(id)].op;
  Step step = make_step(id, op, weights);
  if (op.fallback() != nullptr) step.fallback = make_step(id, *op.fallback(), weights).kernel;
  steps_.push_back(std::move(step));
}

Plan::Step Plan::make_step(NodeId id, const Operator& op, WeightStore& weights) {
  const Node& node = graph_.nodes[at(id)];
  std::vector<KernelInput> inputs;
  for (const ValueId input : node.inputs) {
    const Value& value = graph_.values[at(input)];
    inputs.push_back({layout_.prototypes[at(input)], value.kind == ValueKind::weight ? value.name : ""});
  }
  std::vector<Tensor> outputs;
  for (const ValueId output : node.outputs) outputs.push_back(layout_.prototypes[at(output)]);
  const KernelRequest request{op, inputs, outputs, threads_, weights};
  KernelChoice choice = select_kernel(cpu::kernels(), request);
  if (choice.entry->name == "reference" && !choice.refusals.empty()) {
    log(LogLevel::info, "{}: runs its reference, because {}", op.name(), fmt::join(choice.refusals, "; "));
  }
  if (!choice.entry->packs_weights) {
    for (const ValueId input : node.inputs) resolve_weight(input, weights);
  }
  std::unique_ptr<const Kernel> kernel = choice.entry->make(request);
  const std::string_view name = kernel->implementation().empty() ? choice.entry->name : kernel->implementation();
  scratch_bytes_ = std::max(scratch_bytes_, kernel->scratch_bytes());
  return {id, name, std::move(choice.refusals), std::move(kernel)};
}

}  // namespace rondo
