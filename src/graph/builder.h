// Builds a graph node by node. Every shape is inferred and checked as a node is added.
#pragma once

#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "graph/graph.h"
#include "io/weight_source.h"

namespace rondo {

class GraphBuilder {
 public:
  /// Weights are checked against `weights` as they are named; without it (null) they are taken as declared.
  explicit GraphBuilder(const WeightSource* weights = nullptr) : weights_(weights) {}

  ValueId input(const std::string& name, const TensorType& type);
  /// A weight of exactly this shape, read as `dtype`. Throws FileError, naming it and both shapes, when the source has
  /// none or another one.
  ValueId weight(const std::string& name, const Shape& shape, DType dtype);
  /// As `weight`, in the dtype in which it is stored (an embedding table that is never converted); `absent` without a
  /// source.
  ValueId stored_weight(const std::string& name, const Shape& shape, DType absent);
  ValueId constant(const Tensor& tensor);
  void output(const std::string& name, ValueId value);

  /// Adds a node and returns its only output. Throws InvalidArgument when the inputs do not fit.
  ValueId add(std::shared_ptr<const Operator> op, std::initializer_list<ValueId> inputs);
  ValueId add(std::shared_ptr<const Operator> op, std::span<const ValueId> inputs);
  /// The same for an operator of any number of outputs.
  std::vector<ValueId> add_all(std::shared_ptr<const Operator> op, std::span<const ValueId> inputs);
  template <typename Op, typename... Args>
  ValueId apply(std::initializer_list<ValueId> inputs, Args&&... args) {
    return add(std::make_shared<const Op>(std::forward<Args>(args)...), inputs);
  }

  const TensorType& type(ValueId value) const { return graph_.values[static_cast<std::size_t>(value)].type; }
  const Shape& shape(ValueId value) const { return type(value).shape; }
  const WeightSource* weights() const { return weights_; }
  /// The constant that a value is; null for others.
  const Tensor* constant_of(ValueId value) const {
    const Value& v = graph_.values[static_cast<std::size_t>(value)];
    return v.kind == ValueKind::constant ? &v.constant : nullptr;
  }

  /// What follows, up to the next call, is segment `kind` `index`.
  void begin_segment(const std::string& kind, int index = 0);

  /// Hands the graph out; the builder is empty afterwards.
  Graph finish();

 private:
  ValueId new_value(Value value);

  const WeightSource* weights_;
  Graph graph_;
};

}  // namespace rondo
