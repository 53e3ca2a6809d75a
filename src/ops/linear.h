// y = f(x W^T + b)
#pragma once

#include "ops/elementwise.h"
#include "ops/operator.h"
#include "quantization/linear_quantization.h"

namespace rondo {

/// x [..., K], weight [N, K], bias [N] (optional) -> [..., N] in x's dtype: the product, or an activation of it.
/// Products accumulate in float32 or wider, and the activation is taken before they are rounded. With a quantisation
/// the weight is quantised when it is packed, from the floating one.
class LinearOp final : public Operator {
 public:
  explicit LinearOp(std::optional<ActivationKind> activation = std::nullopt,
                    std::optional<LinearQuantization> quantization = std::nullopt)
      : activation_(activation), quantization_(std::move(quantization)) {
    if (quantization_ && !quantization_->native_steps.empty()) native_ = std::make_unique<LinearOp>(activation_);
  }
  std::optional<ActivationKind> activation() const { return activation_; }
  const std::optional<LinearQuantization>& quantization() const { return quantization_; }
  std::string_view name() const override { return "linear"; }
  std::string attributes() const override;
  std::vector<TensorType> infer(std::span<const TensorType> inputs) const override;
  void reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const override;
  double flops(std::span<const TensorType> inputs) const override;
  const Operator* fallback() const override { return native_.get(); }
  bool falls_back_at(int step) const override;

 private:
  std::optional<ActivationKind> activation_;
  std::optional<LinearQuantization> quantization_;
  std::unique_ptr<const LinearOp> native_;
};

}  // namespace rondo
