// Which values of a graph need a buffer, which only look at another's or lie inside it, and where the buffers lie in
// the arena.
#pragma once

#include <optional>
#include <vector>

#include "graph/graph.h"
#include "graph/memory_plan.h"

namespace rondo {

struct BufferLayout {
  /// Shape, strides and dtype of every value; memory only for constants.
  std::vector<Tensor> prototypes;
  /// True for a value that nothing has to be run for: a view of its producer's first input, or a concatenation whose
  /// parts are written in place.
  std::vector<bool> is_view;
  /// A value's buffer in the memory plan of its side; -1 for weights, constants and views.
  std::vector<std::int32_t> buffers;
  /// Bytes from the buffer's beginning to the value's: parts of a concatenation share its buffer.
  std::vector<std::size_t> offsets;
  /// Of the values on the plan's own device.
  MemoryPlan memory;
  /// Of a plan for another device than the CPU: the values that lie on the CPU.
  MemoryPlan host_memory;

  const MemoryPlan& memory_of(bool on_host) const { return on_host ? host_memory : memory; }
};

/// `for_device`: of a graph that was placed on a device, where values on the CPU lie apart.
BufferLayout lay_out_buffers(const Graph& graph, bool for_device = false);

/// Where a concatenation's input would have to be written for the concatenation to need no copy.
struct ConcatPart {
  /// What is computed: the input itself, or what the input is another shape of.
  ValueId computed;
  /// Its shape and strides inside the concatenation, and its first element there.
  Tensor prototype;
  std::int64_t offset;
};

/// Of input `index` of a ConcatOp node; nothing where the input is not computed, or not by a node that could leave such
/// gaps between rows.
std::optional<ConcatPart> concat_part(const Graph& graph, const Node& node, std::size_t index);

}  // namespace rondo
