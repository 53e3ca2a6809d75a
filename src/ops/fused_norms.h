// Norms together with what comes before or after them, as one operator that goes over memory once.
#pragma once

#include "ops/operator.h"
#include "rondo/operators.h"

namespace rondo {

/// x [B, S, D], scale and shift [B, D], [B, 1, D] or [B, S, D], weight [D] and bias [D] (both or neither) ->
/// layer_norm(x) * (1 + scale) + shift
class LayerNormScaleShiftOp final : public Operator {
 public:
  explicit LayerNormScaleShiftOp(double eps) : eps_(eps) {}
  double eps() const { return eps_; }
  std::string_view name() const override { return "layernorm_scale_shift"; }
  std::string attributes() const override { return fmt::format("eps={}", eps_); }
  RowGaps row_gaps() const override { return RowGaps::anywhere; }
  int overwritable_input() const override { return 0; }
  std::vector<TensorType> infer(std::span<const TensorType> inputs) const override;
  void reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const override;

 private:
  double eps_;
};

/// x [..., D], residual [..., D], weight [D] (optional) -> rms_norm(x + residual), x + residual
class AddRmsNormOp final : public Operator {
 public:
  explicit AddRmsNormOp(double eps) : eps_(eps) {}
  double eps() const { return eps_; }
  std::string_view name() const override { return "add_rms_norm"; }
  std::string attributes() const override { return fmt::format("eps={}", eps_); }
  RowGaps row_gaps() const override { return RowGaps::anywhere; }
  std::vector<TensorType> infer(std::span<const TensorType> inputs) const override;
  void reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const override;

 private:
  double eps_;
};

/// x [B, S, N, D], cos and sin as RopeOp takes them, weight [D] (optional) -> rope(rms_norm(x))
class RmsNormRopeOp final : public Operator {
 public:
  RmsNormRopeOp(double eps, RotaryMode mode) : eps_(eps), mode_(mode) {}
  double eps() const { return eps_; }
  RotaryMode mode() const { return mode_; }
  std::string_view name() const override { return "rms_norm_rope"; }
  std::string attributes() const override {
    return fmt::format("eps={} {}", eps_, mode_ == RotaryMode::half ? "half" : "interleaved");
  }
  RowGaps row_gaps() const override { return RowGaps::anywhere; }
  std::vector<TensorType> infer(std::span<const TensorType> inputs) const override;
  void reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const override;

 private:
  double eps_;
  RotaryMode mode_;
};

}  // namespace rondo
