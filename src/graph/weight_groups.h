// Which weights a segment has to itself: what can leave a device between the segment's turns.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "graph/graph.h"

namespace rondo {

/// A segment's weights.
struct WeightGroup {
  std::string segment;  // "double_block 3"; unique in a graph
  /// What they take in the forms that kernels want them in; at most.
  std::uint64_t bytes = 0;
};

struct WeightGroups {
  std::vector<WeightGroup> groups;  // of segments that have any, in their order
  /// For every node its segment's group, and for every value the group of the only segment that reads it, if it is a
  /// weight; -1: none.
  std::vector<int> of_node;
  std::vector<int> of_value;

  std::uint64_t bytes() const;
  /// The least that the weights take on a device, with two slots for all groups in turn.
  std::uint64_t least_bytes() const;
};

WeightGroups group_weights(const Graph& graph);

/// The groups that must leave the device so that the others, and two slots for those, take at most `budget` bytes:
/// spread evenly, so that one's way there lies beside the others' work. All where nothing less will do.
std::vector<bool> groups_to_offload(const WeightGroups& weights, std::uint64_t budget);

}  // namespace rondo
