// A graph compiled for a device and a number of threads: kernels chosen, weights resolved, memory laid out. Immutable.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backends/execution_device.h"
#include "backends/kernel.h"
#include "graph/buffer_layout.h"
#include "graph/graph.h"
#include "graph/pass_manager.h"
#include "graph/placement.h"
#include "graph/weight_groups.h"

namespace rondo {

/// Where a plan runs.
struct PlanTarget {
  /// Of one run, on the CPU.
  int threads = 1;
  /// Null: on the CPU.
  std::shared_ptr<const ExecutionDevice> device = nullptr;
  /// Whether operators that the device has no kernel for run on the CPU.
  bool allow_cpu_fallback = false;
  /// Why the run's ranks exchange nothing on their devices; empty: they may. The same on all of them.
  std::string no_messages = {};
  /// Bytes of a device that weights may take: what exceeds it stays in host memory between its layers' turns. Of a
  /// model's plans the first decides for all. Unset: all of it.
  std::optional<std::uint64_t> weight_budget = std::nullopt;
  /// Whether sessions have their steps recorded, on a device that can; `always`: what cannot be recorded throws.
  enum class Recording : std::uint8_t { never, possible, always };
  Recording recording = Recording::possible;

  Device where() const { return device == nullptr ? Device{} : device->device(); }
  std::string to_string() const;
};

class Plan {
 public:
  struct Step {
    NodeId node;
    /// True for a node that runs on the CPU, in a plan for a device or not.
    bool on_cpu;
    std::string_view kernel_name;
    std::vector<std::string> refusals;  // why better kernels were not taken
    std::unique_ptr<const Kernel> kernel;
    /// What runs at the steps at which the operator falls back; null for most.
    std::unique_ptr<const Kernel> fallback = nullptr;
    /// Whose weights must be on the device while it runs; null: none.
    OffloadedWeights::Group* group = nullptr;
  };

  /// Throws Unsupported, naming all of them, when nodes have no kernel and may not run on the CPU.
  Plan(Graph graph, std::vector<PassResult> passes, WeightStore& weights, const PlanTarget& target);

  const Graph& graph() const { return graph_; }
  const std::vector<PassResult>& passes() const { return passes_; }
  const std::vector<Step>& steps() const { return steps_; }
  const Node& node(const Step& step) const { return graph_.nodes[static_cast<std::size_t>(step.node)]; }
  int threads() const { return target_.threads; }
  /// Null: the CPU.
  const ExecutionDevice* device() const { return target_.device.get(); }
  std::shared_ptr<const ExecutionDevice> shared_device() const { return target_.device; }
  PlanTarget::Recording recording() const { return target_.recording; }
  /// What runs where; of a plan for a device.
  const Placement& placement() const { return placement_; }
  /// The weights that are not on the device all the time; null: all are.
  OffloadedWeights* offloaded() const { return offloaded_.get(); }
  /// Which those are, in words; empty: none.
  std::string offload_to_string() const;
  /// Bytes of a session's arena, and what it would take without reuse of buffers.
  std::size_t arena_bytes() const { return layout_.memory.arena_bytes + scratch_bytes_; }
  std::size_t naive_bytes() const { return layout_.memory.naive_bytes + scratch_bytes_; }
  std::size_t scratch_bytes() const { return scratch_bytes_; }
  /// Of a plan for a device: what its nodes on the CPU take there.
  std::size_t host_bytes() const { return layout_.host_memory.arena_bytes + host_scratch_bytes_; }
  std::size_t host_scratch_bytes() const { return host_scratch_bytes_; }
  /// True for a value in host memory, of a plan for a device.
  bool on_host(ValueId id) const {
    return target_.device != nullptr && graph_.values[static_cast<std::size_t>(id)].type.device.is_cpu();
  }
  const BufferLayout& layout() const { return layout_; }
  /// A weight or constant that is in memory in its plain form; undefined for every other value.
  const Tensor& resident(ValueId id) const { return resident_[static_cast<std::size_t>(id)]; }

 private:
  /// Where a value's memory is; null: on the CPU.
  const ExecutionDevice* device_of(ValueId id) const;
  /// Decides, for the first plan of a model, which weights leave the device.
  std::shared_ptr<OffloadedWeights> offload(WeightStore& weights);
  /// Of a number in `groups_`.
  OffloadedWeights::Group* offloaded_group(int group) const;
  void resolve_weight(ValueId id, WeightStore& weights);
  void choose_kernel(NodeId id, WeightStore& weights);
  Step make_step(NodeId id, const Operator& op, WeightStore& weights);

  Graph graph_;
  std::vector<PassResult> passes_;
  PlanTarget target_;
  Placement placement_;
  BufferLayout layout_;
  WeightGroups groups_;  // of a plan for a device
  std::shared_ptr<OffloadedWeights> offloaded_;
  std::vector<Tensor> resident_;  // one a value
  std::vector<Step> steps_;
  std::size_t scratch_bytes_ = 0;
  std::size_t host_scratch_bytes_ = 0;
};

}  // namespace rondo
