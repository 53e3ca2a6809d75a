// Rotary position embedding (Su et al., 2021).
#pragma once

#include "ops/operator.h"
#include "rondo/operators.h"

namespace rondo {

/// x [B, S, N, D] with even D; cos and sin [S, D], or [S, D / 2] with one value for both elements of a pair. With
/// turned(x) swapping each pair and negating its first: x * cos + turned(x) * sin.
class RopeOp final : public Operator {
 public:
  explicit RopeOp(RotaryMode mode = RotaryMode::interleaved) : mode_(mode) {}
  RotaryMode mode() const { return mode_; }
  std::string_view name() const override { return "rope"; }
  std::string attributes() const override { return mode_ == RotaryMode::half ? "half" : "interleaved"; }
  RowGaps row_gaps() const override { return RowGaps::anywhere; }
  bool keeps_tokens() const override { return true; }
  std::optional<std::size_t> token_axis(std::span<const TensorType> /*inputs*/, std::size_t index) const override {
    return index == 0 ? 1 : 0;
  }
  std::vector<TensorType> infer(std::span<const TensorType> inputs) const override;
  void reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const override;

 private:
  RotaryMode mode_;
};

}  // namespace rondo
