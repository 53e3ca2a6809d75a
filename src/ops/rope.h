// Rotary position embedding (Su et al., 2021), interleaved pairs as FLUX uses it.
#pragma once

#include "ops/operator.h"

namespace rondo {

/// x [B, S, H, D], cos [S, D / 2], sin [S, D / 2]: the pair (x[2i], x[2i + 1]) turns by the angle whose cosine and sine
/// stand at i. D is even.
class RopeOp final : public Operator {
 public:
  std::string_view name() const override { return "rope"; }
  std::vector<TensorType> infer(std::span<const TensorType> inputs) const override;
  void reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const override;
};

}  // namespace rondo
