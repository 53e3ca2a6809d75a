// What nodes did and when, in a report's words.
#pragma once

#include <span>
#include <vector>

#include "graph/session.h"
#include "rondo/text_to_image.h"

namespace rondo {

std::vector<RunReport::Event> describe_events(std::span<const NodeEvent> events, int lane);

/// Bytes that a node reads and writes, each operand once; a quantised weight as it lies in memory.
double node_bytes(const Graph& graph, const Node& node);

/// "double_block 3"; empty outside segments.
std::string segment_of(const Graph& graph, NodeId node);

}  // namespace rondo
