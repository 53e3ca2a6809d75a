// A graph compiled for a device and a number of threads: kernels chosen, weights resolved, memory laid out. Immutable.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backends/kernel.h"
#include "graph/buffer_layout.h"
#include "graph/graph.h"
#include "graph/pass_manager.h"

namespace rondo {

class Plan {
 public:
  struct Step {
    NodeId node;
    std::string_view kernel_name;
    std::vector<std::string> refusals;  // why better kernels were not taken
    std::unique_ptr<const Kernel> kernel;
    /// What runs at the steps at which the operator falls back; null for most.
    std::unique_ptr<const Kernel> fallback = nullptr;
  };

  /// Throws Unsupported when a node has no kernel.
  Plan(Graph graph, std::vector<PassResult> passes, WeightStore& weights, int threads);

  const Graph& graph() const { return graph_; }
  const std::vector<PassResult>& passes() const { return passes_; }
  const std::vector<Step>& steps() const { return steps_; }
  const Node& node(const Step& step) const { return graph_.nodes[static_cast<std::size_t>(step.node)]; }
  int threads() const { return threads_; }
  /// Bytes of a session's arena, and what it would take without reuse of buffers.
  std::size_t arena_bytes() const { return layout_.memory.arena_bytes + scratch_bytes_; }
  std::size_t naive_bytes() const { return layout_.memory.naive_bytes + scratch_bytes_; }
  std::size_t scratch_bytes() const { return scratch_bytes_; }
  const BufferLayout& layout() const { return layout_; }
  /// A weight or constant that is in memory in its plain form; undefined for every other value.
  const Tensor& resident(ValueId id) const { return resident_[static_cast<std::size_t>(id)]; }

 private:
  void resolve_weight(ValueId id, WeightStore& weights);
  void choose_kernel(NodeId id, WeightStore& weights);
  Step make_step(NodeId id, const Operator& op, WeightStore& weights);

  Graph graph_;
  std::vector<PassResult> passes_;
  int threads_;
  BufferLayout layout_;
  std::vector<Tensor> resident_;  // one a value
  std::vector<Step> steps_;
  std::size_t scratch_bytes_ = 0;
};

}  // namespace rondo
