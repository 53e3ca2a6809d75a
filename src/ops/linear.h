// y = f(x W^T + b), and y = residual + gate * (x W^T + b)
#pragma once

#include "ops/elementwise.h"
#include "ops/operator.h"
#include "quantization/linear_quantization.h"

namespace rondo {

/// x [..., K], weight [N, K], bias [N] (optional) -> [..., N] in x's dtype: the product, or an activation of it.
/// Gated: x [B, S, K], weight, bias, gate [B, N] or [B, 1, N], residual [B, S, N] -> residual + gate * the product.
/// Products accumulate in float32 or wider, and the activation is taken before they are rounded; whether gate and
/// residual are as well is the kernel's choice. With a quantisation the weight is quantised when it is packed, from the
/// floating one.
class LinearOp final : public Operator {
 public:
  explicit LinearOp(std::optional<ActivationKind> activation = std::nullopt,
                    std::optional<LinearQuantization> quantization = std::nullopt, bool gated = false)
      : activation_(activation), quantization_(std::move(quantization)), gated_(gated) {
    if (quantization_ && !quantization_->native_steps.empty())
      native_ = std::make_unique<LinearOp>(activation_, std::nullopt, gated_);
  }
  std::optional<ActivationKind> activation() const { return activation_; }
  const std::optional<LinearQuantization>& quantization() const { return quantization_; }
  bool gated() const { return gated_; }
  /// Where a gated product's inputs stand.
  static constexpr std::size_t kGate = 3;
  static constexpr std::size_t kResidual = 4;
  std::string_view name() const override { return "linear"; }
  std::string attributes() const override;
  bool keeps_tokens() const override { return true; }
  std::vector<TensorType> infer(std::span<const TensorType> inputs) const override;
  void reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const override;
  /// Quantised products go through tiles, which are written anywhere. oneDNN's own, also those of native steps, lose 3
  /// to 16 % where the target's rows lie apart: version 2 leaves its best kernel then.
  RowGaps row_gaps() const override {
    if (quantization_ && native_ == nullptr) return RowGaps::anywhere;
    return gated_ ? RowGaps::between_batches : RowGaps::none;
  }
  double flops(std::span<const TensorType> inputs) const override;
  const Operator* fallback() const override { return native_.get(); }
  bool falls_back_at(int step) const override;

 private:
  std::optional<ActivationKind> activation_;
  std::optional<LinearQuantization> quantization_;
  bool gated_;
  std::unique_ptr<const LinearOp> native_;
};

}  // namespace rondo
