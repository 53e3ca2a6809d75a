// y = f(x W^T + b)
#pragma once

#include "ops/elementwise.h"
#include "ops/operator.h"

namespace rondo {

/// x [..., K], weight [N, K], bias [N] (optional) -> [..., N] in x's dtype: the product, or an activation of it.
/// Products accumulate in float32 or wider, and the activation is taken before they are rounded.
class LinearOp final : public Operator {
 public:
  explicit LinearOp(std::optional<ActivationKind> activation = std::nullopt) : activation_(activation) {}
  std::optional<ActivationKind> activation() const { return activation_; }
  std::string_view name() const override { return "linear"; }
  std::string attributes() const override { return activation_ ? std::string(activation_name(*activation_)) : ""; }
  std::vector<TensorType> infer(std::span<const TensorType> inputs) const override;
  void reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const override;
  double flops(std::span<const TensorType> inputs) const override;

 private:
  std::optional<ActivationKind> activation_;
};

}  // namespace rondo
