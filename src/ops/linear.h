// y = x W^T + b
#pragma once

#include "ops/operator.h"

namespace rondo {

/// x [..., K], weight [N, K], bias [N] (optional) -> [..., N] in x's dtype. Products accumulate in float32 or wider.
class LinearOp final : public Operator {
 public:
  std::string_view name() const override { return "linear"; }
  std::vector<TensorType> infer(std::span<const TensorType> inputs) const override;
  void reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const override;
  double flops(std::span<const TensorType> inputs) const override;
};

}  // namespace rondo
