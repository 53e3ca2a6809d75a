// Which values of a graph need a buffer, which only look at another's, and where the buffers lie in the arena.
#pragma once

#include <vector>

#include "graph/graph.h"
#include "graph/memory_plan.h"

namespace rondo {

struct BufferLayout {
  /// Shape, strides and dtype of every value; memory only for constants.
  std::vector<Tensor> prototypes;
  /// True for a value that is a view of its producer's first input.
  std::vector<bool> is_view;
  /// A value's buffer in `memory`; -1 for weights, constants and views.
  std::vector<std::int32_t> buffers;
  MemoryPlan memory;
};

BufferLayout lay_out_buffers(const Graph& graph);

}  // namespace rondo
