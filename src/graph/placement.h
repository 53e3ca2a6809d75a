// Which device each value of a graph lies on, where the graph runs on another device than the CPU.
#pragma once

#include <string>
#include <vector>

#include "backends/execution_device.h"
#include "graph/graph.h"

namespace rondo {

/// What a placement comes to, for reports.
struct Placement {
  /// Operators that the device has no kernel for: "conv2d (bfloat16 [1, 8, 8, 64] and 3 more): ascend-nn: takes ...".
  std::vector<std::string> missing;
  int nodes_on_device = 0;
  int nodes_on_cpu = 0;
  int copies_to_device = 0;
  int copies_to_cpu = 0;
  std::uint64_t bytes_to_device = 0;  // a run
  std::uint64_t bytes_to_cpu = 0;

  std::string to_string(const Device& device) const;
};

/// Puts every node that the device has a kernel for on it, the others on the CPU, and a copy wherever a value crosses.
/// Inputs and outputs of the graph stay on the CPU. Decided with what kernels say of the graph's own types; views stay
/// where what they look at is. `no_messages` says why ranks exchange nothing on the device; empty: they may.
Placement place_on_device(Graph& graph, const ExecutionDevice& device, int threads,
                          const std::string& no_messages = {});

}  // namespace rondo
