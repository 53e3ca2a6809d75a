#include "graph/plan.h"

#include <algorithm>

#include "backends/cpu/kernels.h"
#include "core/log.h"
#include "core/text.h"
#include "core/threads.h"
#include "ops/layout.h"

namespace rondo {
namespace {

std::size_t at(ValueId id) { return static_cast<std::size_t>(id); }

/// True where all outputs are empty: a rank may hold no tokens, or no heads.
bool computes_nothing(const Graph& graph, const Node& node) {
  return !node.op->has_effect() && std::all_of(node.outputs.begin(), node.outputs.end(), [&](ValueId id) {
    return graph.values[at(id)].type.shape.elements() == 0;
  });
}

Placement place(Graph& graph, const PlanTarget& target) {
  if (target.device == nullptr) return {};
  const Device& device = target.device->device();
  Placement placement = place_on_device(graph, *target.device, target.threads, target.no_messages);
  if (placement.missing.empty()) return placement;
  if (!target.allow_cpu_fallback) {
    throw Unsupported(
        fmt::format("{}: has no kernel for {}; allowed are --allow-cpu-fallback, which runs them on the "
                    "CPU, and --device cpu",
                    to_string(device), fmt::join(placement.missing, "; ")));
  }
  log(LogLevel::warning, "{}: on the CPU, for want of kernels: {}", placement.to_string(device),
      fmt::join(placement.missing, "; "));
  return placement;
}

}  // namespace

std::string PlanTarget::to_string() const {
  if (device == nullptr) return fmt::format("threads={}", threads);
  return fmt::format("threads={} device={}{}{}", threads, rondo::to_string(device->device()),
                     allow_cpu_fallback ? " cpu fallback" : "", recording == Recording::never ? " unrecorded" : "");
}

Plan::Plan(Graph graph, std::vector<PassResult> passes, WeightStore& weights, const PlanTarget& target)
    : graph_(std::move(graph)),
      passes_(std::move(passes)),
      target_(target),
      placement_(place(graph_, target_)),
      layout_(lay_out_buffers(graph_, target_.device != nullptr)),
      offloaded_(offload(weights)),
      resident_(graph_.values.size()) {
  const ThreadTeamScope team(target_.threads);
  for (const Value& value : graph_.values) {
    if (!value.parts.empty()) weights.stack(value.name, value.parts);
  }
  for (std::size_t i = 0; i < graph_.values.size(); ++i) {
    if (graph_.values[i].kind != ValueKind::constant) continue;
    const ExecutionDevice* const device = device_of(static_cast<ValueId>(i));
    resident_[i] = device == nullptr ? graph_.values[i].constant : device->upload(graph_.values[i].constant);
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

std::shared_ptr<OffloadedWeights> Plan::offload(WeightStore& weights) {
  if (target_.device == nullptr) return nullptr;
  groups_ = group_weights(graph_);
  return weights.offloaded(target_.where(), [&]() -> std::shared_ptr<OffloadedWeights> {
    if (!target_.weight_budget || groups_.bytes() <= *target_.weight_budget) return nullptr;
    const std::vector<bool> leaves = groups_to_offload(groups_, *target_.weight_budget);
    std::vector<OffloadedWeights::GroupSize> sizes;
    for (std::size_t i = 0; i < leaves.size(); ++i) {
      if (leaves[i]) sizes.push_back({groups_.groups[i].segment, groups_.groups[i].bytes});
    }
    return std::make_shared<OffloadedWeights>(target_.device, sizes);
  });
}

std::string Plan::offload_to_string() const {
  if (offloaded_ == nullptr) return "";
  return fmt::format("weights of {} of {} layers come from host memory, {} a run, through {} of the device's",
                     offloaded_->groups(), groups_.groups.size(), human_bytes(offloaded_->bytes_a_run()),
                     human_bytes(offloaded_->slot_bytes()));
}

OffloadedWeights::Group* Plan::offloaded_group(int group) const {
  if (offloaded_ == nullptr || group < 0) return nullptr;
  return offloaded_->find(groups_.groups[static_cast<std::size_t>(group)].segment);
}

const ExecutionDevice* Plan::device_of(ValueId id) const {
  return graph_.values[at(id)].type.device.is_cpu() ? nullptr : target_.device.get();
}

void Plan::resolve_weight(ValueId id, WeightStore& weights) {
  const Value& value = graph_.values[at(id)];
  if (value.kind == ValueKind::weight && !resident_[at(id)].defined())
    resident_[at(id)] =
        weights.get(value.name, value.type.dtype,
                    {device_of(id), offloaded_group(device_of(id) == nullptr ? -1 : groups_.of_value[at(id)])});
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
  const bool copies = dynamic_cast<const DeviceCopyOp*>(&op) != nullptr;
  const ExecutionDevice* const device = copies ? target_.device.get() : device_of(node.outputs[0]);
  const KernelRequest request{op,
                              inputs,
                              outputs,
                              target_.threads,
                              weights,
                              device,
                              offloaded_group(device == nullptr ? -1 : groups_.of_node[at(id)])};
  KernelChoice choice = select_kernel(device == nullptr ? cpu::kernels() : device->kernels(), request);
  if (choice.entry->name == "reference" && !choice.refusals.empty()) {
    log(LogLevel::info, "{}: runs its reference, because {}", op.name(), fmt::join(choice.refusals, "; "));
  }
  if (!choice.entry->packs_weights) {
    for (const ValueId input : node.inputs) resolve_weight(input, weights);
  }
  std::unique_ptr<const Kernel> kernel = choice.entry->make(request);
  const std::string_view name = kernel->implementation().empty() ? choice.entry->name : kernel->implementation();
  std::size_t& scratch = device == nullptr && target_.device != nullptr ? host_scratch_bytes_ : scratch_bytes_;
  scratch = std::max(scratch, kernel->scratch_bytes());
  return {id, device == nullptr, name, std::move(choice.refusals), std::move(kernel), nullptr, request.group};
}

}  // namespace rondo
