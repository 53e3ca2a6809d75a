// The layers that models are written in: each adds its nodes and names its weights as the checkpoint does.
#pragma once

#include <functional>
#include <span>
#include <string>

#include "graph/builder.h"
#include "ops/elementwise.h"

namespace rondo {

/// A place in a checkpoint's tree of names, and the dtype that the model computes in.
class Scope {
 public:
  Scope(GraphBuilder& builder, DType dtype, std::string prefix = "")
      : builder_(&builder), dtype_(dtype), prefix_(std::move(prefix)) {}

  Scope operator/(const std::string& name) const { return {*builder_, dtype_, full(name)}; }
  Scope operator/(std::int64_t index) const { return *this / std::to_string(index); }

  GraphBuilder& builder() const { return *builder_; }
  DType dtype() const { return dtype_; }
  std::string full(const std::string& name) const { return prefix_.empty() ? name : prefix_ + "." + name; }
  /// A weight for products, in the compute dtype.
  ValueId weight(const Shape& shape) const { return builder_->weight(full("weight"), shape, dtype_); }
  /// A vector that is added or multiplied in float32.
  ValueId vector(const std::string& name, std::int64_t size) const {
    return builder_->weight(full(name), {size}, DType::f32);
  }

 private:
  GraphBuilder* builder_;
  DType dtype_;
  std::string prefix_;
};

/// `weight` [out, in] and, if asked for, `bias` [out].
ValueId linear(const Scope& scope, ValueId x, std::int64_t out, bool bias = true);
/// `weight` [out, in, kernel, kernel] and `bias`; `padding` on every side.
ValueId conv2d(const Scope& scope, ValueId x, std::int64_t out, std::int64_t kernel, std::int64_t padding);
ValueId rms_norm(const Scope& scope, ValueId x, double eps);
ValueId layer_norm(const Scope& scope, ValueId x, double eps);
ValueId group_norm(const Scope& scope, ValueId x, std::int64_t groups, double eps);

ValueId activation(GraphBuilder& builder, ValueId x, ActivationKind kind);
ValueId add(GraphBuilder& builder, ValueId a, ValueId b);
ValueId multiply(GraphBuilder& builder, ValueId a, ValueId b);
ValueId concat(GraphBuilder& builder, std::initializer_list<ValueId> parts, std::size_t axis);
ValueId slice(GraphBuilder& builder, ValueId x, std::size_t axis, std::int64_t begin, std::int64_t end);
/// Part `index` of the last axis cut into `count` equal parts.
ValueId chunk(GraphBuilder& builder, ValueId x, std::int64_t index, std::int64_t count);
/// [B, S, H * D] -> [B, S, H, D]
ValueId split_heads(GraphBuilder& builder, ValueId x, std::int64_t heads);
/// [B, S, H, D] -> [B, S, H * D]
ValueId join_heads(GraphBuilder& builder, ValueId x);

/// Throws FileError for a tensor of the source that no graph reads and that `is_harmless` does not know.
void refuse_unknown_tensors(const WeightSource& source, std::span<const Graph> graphs,
                            const std::function<bool(const std::string&)>& is_harmless);

}  // namespace rondo
