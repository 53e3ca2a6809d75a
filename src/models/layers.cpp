#include "models/layers.h"

#include <fmt/format.h>

#include <set>

#include "core/text.h"
#include "ops/conv2d.h"
#include "ops/layout.h"
#include "ops/linear.h"
#include "ops/norms.h"
#include "rondo/error.h"

namespace rondo {

ValueId linear(const Scope& scope, ValueId x, std::int64_t out, bool bias) {
  GraphBuilder& b = scope.builder();
  const ValueId weight = scope.weight({out, b.shape(x).back()});
  return bias ? b.apply<LinearOp>({x, weight, scope.vector("bias", out)}) : b.apply<LinearOp>({x, weight});
}

ValueId conv2d(const Scope& scope, ValueId x, std::int64_t out, std::int64_t kernel, std::int64_t padding) {
  GraphBuilder& b = scope.builder();
  const ValueId weight = scope.weight({out, b.shape(x).back(), kernel, kernel});
  return b.apply<Conv2dOp>({x, weight, scope.vector("bias", out)}, 1,
                           Conv2dOp::Padding{padding, padding, padding, padding});
}

ValueId rms_norm(const Scope& scope, ValueId x, double eps) {
  GraphBuilder& b = scope.builder();
  return b.apply<RmsNormOp>({x, scope.vector("weight", b.shape(x).back())}, eps);
}

ValueId layer_norm(const Scope& scope, ValueId x, double eps) {
  GraphBuilder& b = scope.builder();
  const std::int64_t width = b.shape(x).back();
  return b.apply<LayerNormOp>({x, scope.vector("weight", width), scope.vector("bias", width)}, eps);
}

ValueId group_norm(const Scope& scope, ValueId x, std::int64_t groups, double eps) {
  GraphBuilder& b = scope.builder();
  const std::int64_t channels = b.shape(x).back();
  return b.apply<GroupNormOp>({x, scope.vector("weight", channels), scope.vector("bias", channels)}, groups, eps);
}

ValueId activation(GraphBuilder& builder, ValueId x, ActivationKind kind) {
  return builder.apply<ActivationOp>({x}, kind);
}
ValueId add(GraphBuilder& builder, ValueId a, ValueId b) { return builder.apply<BinaryOp>({a, b}, BinaryKind::add); }
ValueId multiply(GraphBuilder& builder, ValueId a, ValueId b) {
  return builder.apply<BinaryOp>({a, b}, BinaryKind::multiply);
}

ValueId concat(GraphBuilder& builder, std::initializer_list<ValueId> parts, std::size_t axis) {
  return builder.apply<ConcatOp>(parts, axis);
}

ValueId slice(GraphBuilder& builder, ValueId x, std::size_t axis, std::int64_t begin, std::int64_t end) {
  return builder.apply<SliceOp>({x}, axis, begin, end);
}

ValueId chunk(GraphBuilder& builder, ValueId x, std::int64_t index, std::int64_t count) {
  const Shape& shape = builder.shape(x);
  const std::int64_t width = shape.back() / count;
  return slice(builder, x, shape.rank() - 1, index * width, (index + 1) * width);
}

ValueId split_heads(GraphBuilder& builder, ValueId x, std::int64_t heads) {
  const Shape& s = builder.shape(x);
  return builder.apply<ReshapeOp>({x}, Shape{s[0], s[1], heads, s[2] / heads});
}

ValueId join_heads(GraphBuilder& builder, ValueId x) {
  const Shape& s = builder.shape(x);
  return builder.apply<ReshapeOp>({x}, Shape{s[0], s[1], s[2] * s[3]});
}

void refuse_unknown_tensors(const WeightSource& source, std::span<const Graph> graphs,
                            const std::function<bool(const std::string&)>& is_harmless) {
  std::set<std::string> read;
  for (const Graph& graph : graphs) {
    for (const Value& value : graph.values) {
      if (value.kind == ValueKind::weight) read.insert(value.name);
    }
  }
  for (const std::string& name : source.names()) {
    if (!read.contains(name) && !is_harmless(name)) {
      throw FileError(fmt::format("{}: tensor '{}' is not known to the model that its config describes",
                                  source.source(), printable(name)));
    }
  }
}

}  // namespace rondo
