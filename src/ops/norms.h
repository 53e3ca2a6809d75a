// Normalisations: RMSNorm and LayerNorm over the last axis, GroupNorm over channels-last pictures.
#pragma once

#include "ops/operator.h"

namespace rondo {

/// x [..., D], weight [D] (optional) -> x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich, 2019).
class RmsNormOp final : public Operator {
 public:
  explicit RmsNormOp(double eps) : eps_(eps) {}
  double eps() const { return eps_; }
  std::string_view name() const override { return "rms_norm"; }
  std::string attributes() const override { return fmt::format("eps={}", eps_); }
  RowGaps row_gaps() const override { return RowGaps::anywhere; }
  int overwritable_input() const override { return 0; }
  bool keeps_tokens() const override { return true; }
  std::vector<TensorType> infer(std::span<const TensorType> inputs) const override;
  void reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const override;

 private:
  double eps_;
};

/// x [..., D], weight [D] and bias [D] (both or neither) -> (x - mean) / sqrt(var + eps) * weight + bias.
class LayerNormOp final : public Operator {
 public:
  explicit LayerNormOp(double eps) : eps_(eps) {}
  double eps() const { return eps_; }
  std::string_view name() const override { return "layer_norm"; }
  std::string attributes() const override { return fmt::format("eps={}", eps_); }
  RowGaps row_gaps() const override { return RowGaps::anywhere; }
  int overwritable_input() const override { return 0; }
  bool keeps_tokens() const override { return true; }
  std::vector<TensorType> infer(std::span<const TensorType> inputs) const override;
  void reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const override;

 private:
  double eps_;
};

/// x [B, ..., C], weight [C], bias [C]: mean and variance over all positions and the channels of a group.
class GroupNormOp final : public Operator {
 public:
  GroupNormOp(std::int64_t groups, double eps) : groups_(groups), eps_(eps) {}
  std::int64_t groups() const { return groups_; }
  double eps() const { return eps_; }
  std::string_view name() const override { return "group_norm"; }
  std::string attributes() const override { return fmt::format("groups={} eps={}", groups_, eps_); }
  std::vector<TensorType> infer(std::span<const TensorType> inputs) const override;
  void reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const override;

 private:
  std::int64_t groups_;
  double eps_;
};

}  // namespace rondo
