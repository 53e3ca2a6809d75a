// Adaptive norm's modulation and the gated residual of DiT blocks (Peebles and Xie, 2022).
#pragma once

#include "ops/operator.h"

namespace rondo {

/// True when `vector` is [B, D], [B, 1, D] or [B, S, D] beside x [B, S, D].
bool is_modulation_of(const Shape& vector, const Shape& x);

/// What a modulation of x [B, S, D] holds for x's element `i`.
double modulation_at(const RefTensor& vector, const Shape& x, std::int64_t i);

/// x [B, S, D], scale and shift [B, D], [B, 1, D] or [B, S, D] -> x * (1 + scale) + shift
class ModulateOp final : public Operator {
 public:
  std::string_view name() const override { return "modulate"; }
  RowGaps row_gaps() const override { return RowGaps::anywhere; }
  int overwritable_input() const override { return 0; }
  bool keeps_tokens() const override { return true; }
  std::vector<TensorType> infer(std::span<const TensorType> inputs) const override;
  void reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const override;
};

/// residual [B, S, D], gate [B, D], [B, 1, D] or [B, S, D], x [B, S, D] -> residual + gate * x
class GatedAddOp final : public Operator {
 public:
  std::string_view name() const override { return "gated_add"; }
  RowGaps row_gaps() const override { return RowGaps::anywhere; }
  int overwritable_input() const override { return 0; }
  bool keeps_tokens() const override { return true; }
  std::vector<TensorType> infer(std::span<const TensorType> inputs) const override;
  void reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const override;
};

}  // namespace rondo
