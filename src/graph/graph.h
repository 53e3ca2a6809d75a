// A graph: values, the nodes that compute them, and the segments (embed, block i, head) that a model marks.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "ops/operator.h"
#include "rondo/tensor.h"

namespace rondo {

using ValueId = std::int32_t;
using NodeId = std::int32_t;
constexpr NodeId kNoNode = -1;

enum class ValueKind : std::uint8_t {
  input,     // set by the caller before a run
  weight,    // named in the model's weight store
  constant,  // known when the graph was built
  computed,  // a node's output
};

struct Value {
  ValueKind kind = ValueKind::computed;
  TensorType type;
  std::string name;  // of an input or a weight
  NodeId producer = kNoNode;
  Tensor constant;
  /// Of a weight that is put together: the stored weights whose rows it has, one after the other.
  std::vector<std::string> parts = {};
};

struct Node {
  std::shared_ptr<const Operator> op;
  std::vector<ValueId> inputs;
  std::vector<ValueId> outputs;
};

/// Nodes [begin, end) belong together: "double_block" 3. Step caching, offload, profiling and progress work on
/// segments, never on names of nodes.
struct Segment {
  std::string kind;
  int index = 0;
  NodeId begin = 0;
  NodeId end = 0;
};

struct NamedValue {
  std::string name;
  ValueId value;
};

/// Nodes stand in an order in which each follows what it reads. Made by GraphBuilder, rewritten by passes.
struct Graph {
  std::vector<Value> values;
  std::vector<Node> nodes;
  std::vector<Segment> segments;
  std::vector<NamedValue> inputs;
  std::vector<NamedValue> outputs;

  std::vector<TensorType> input_types(const Node& node) const;
  /// One line a node, with types, for people.
  std::string to_string() const;
};

}  // namespace rondo
