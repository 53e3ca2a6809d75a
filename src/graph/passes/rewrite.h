// What passes share: who reads a value, replacing one value by another, dropping nodes while segments keep pointing at
// theirs.
#pragma once

#include <vector>

#include "graph/graph.h"

namespace rondo {

/// Who computes and who reads each value, as the graph stood when this was made.
class GraphReaders {
 public:
  explicit GraphReaders(const Graph& graph);

  /// The node that computes a value, or null.
  const Node* producer(ValueId id) const;
  NodeId producer_id(ValueId id) const { return graph_.values[static_cast<std::size_t>(id)].producer; }
  /// How often a value is read by nodes and as an output of the graph.
  int readers(ValueId id) const { return readers_[static_cast<std::size_t>(id)]; }
  /// The value's producer when it is an Op and nobody else reads the value; else null.
  template <typename Op>
  const Op* only_reader_of(ValueId id) const {
    const Node* node = producer(id);
    return node == nullptr || readers(id) != 1 ? nullptr : dynamic_cast<const Op*>(node->op.get());
  }

 private:
  const Graph& graph_;
  std::vector<int> readers_;
};

/// Every reader of `from` reads `to` in its place.
void replace_value(Graph& graph, ValueId from, ValueId to);

/// Adds a constant.
ValueId add_constant(Graph& graph, const Tensor& tensor);

/// Puts `added[i]` before node i, then removes the marked nodes; segments and producers move along.
void replace_nodes(Graph& graph, const std::vector<bool>& remove, std::vector<std::vector<Node>> added);

/// Removes the marked nodes (their outputs must no longer be read) and moves segments and producers along.
void remove_nodes(Graph& graph, const std::vector<bool>& remove);

}  // namespace rondo
