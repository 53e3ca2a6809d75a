#include "graph/builder.h"

#include <fmt/format.h>

#include <algorithm>

#include "io/safetensors.h"
#include "rondo/error.h"

namespace rondo {

ValueId GraphBuilder::new_value(Value value) {
  graph_.values.push_back(std::move(value));
  return static_cast<ValueId>(graph_.values.size() - 1);
}

ValueId GraphBuilder::input(const std::string& name, const TensorType& type) {
  const ValueId id = new_value({ValueKind::input, type, name, kNoNode, {}});
  graph_.inputs.push_back({name, id});
  return id;
}

ValueId GraphBuilder::weight(const std::string& name, const Shape& shape, DType dtype) {
  const auto same = std::find_if(graph_.values.begin(), graph_.values.end(), [&](const Value& v) {
    return v.kind == ValueKind::weight && v.name == name && v.type.dtype == dtype;
  });
  if (same != graph_.values.end()) return static_cast<ValueId>(same - graph_.values.begin());
  if (weights_ != nullptr) {
    const TensorRecord* record = weights_->find(name);
    if (record == nullptr) {
      throw FileError(fmt::format("{}: has no tensor '{}'; the model needs it with shape {}", weights_->source(), name,
                                  shape.to_string()));
    }
    require_readable(*record, name, weights_->source());
    if (!(record->shape == shape)) {
      throw FileError(fmt::format("{}: tensor '{}' has shape {}; the model's config needs {}", weights_->source(), name,
                                  record->shape.to_string(), shape.to_string()));
    }
    if (!is_floating(record->dtype)) {
      throw FileError(fmt::format("{}: tensor '{}' has dtype {}; allowed are the floating dtypes", weights_->source(),
                                  name, dtype_name(record->dtype)));
    }
  }
  return new_value({ValueKind::weight, {shape, dtype, {}}, name, kNoNode, {}});
}

ValueId GraphBuilder::stored_weight(const std::string& name, const Shape& shape, DType absent) {
  const TensorRecord* record = weights_ == nullptr ? nullptr : weights_->find(name);
  const bool readable = record != nullptr && (record->dtype == DType::f32 || record->dtype == DType::bf16);
  return weight(name, shape, readable ? record->dtype : absent);
}

ValueId GraphBuilder::constant(const Tensor& tensor) {
  return new_value({ValueKind::constant, {tensor.shape(), tensor.dtype(), tensor.device()}, "", kNoNode, tensor});
}

void GraphBuilder::output(const std::string& name, ValueId value) { graph_.outputs.push_back({name, value}); }

ValueId GraphBuilder::add(std::shared_ptr<const Operator> op, std::initializer_list<ValueId> inputs) {
  return add(std::move(op), std::span<const ValueId>(inputs.begin(), inputs.size()));
}

ValueId GraphBuilder::add(std::shared_ptr<const Operator> op, std::span<const ValueId> inputs) {
  return add_all(std::move(op), inputs).front();
}

std::vector<ValueId> GraphBuilder::add_all(std::shared_ptr<const Operator> op, std::span<const ValueId> inputs) {
  Node node{std::move(op), {inputs.begin(), inputs.end()}, {}};
  const auto producer = static_cast<NodeId>(graph_.nodes.size());
  for (const TensorType& type : node.op->infer(graph_.input_types(node))) {
    node.outputs.push_back(new_value({ValueKind::computed, type, "", producer, {}}));
  }
  graph_.nodes.push_back(std::move(node));
  return graph_.nodes.back().outputs;
}

void GraphBuilder::begin_segment(const std::string& kind, int index) {
  const auto here = static_cast<NodeId>(graph_.nodes.size());
  if (!graph_.segments.empty()) graph_.segments.back().end = here;
  graph_.segments.push_back({kind, index, here, here});
}

Graph GraphBuilder::finish() {
  if (!graph_.segments.empty()) graph_.segments.back().end = static_cast<NodeId>(graph_.nodes.size());
  return std::exchange(graph_, Graph{});
}

}  // namespace rondo
