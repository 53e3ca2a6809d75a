// Scaled dot-product attention as an operator of the graph.
#pragma once

#include "ops/operator.h"

namespace rondo {

/// query [B, Sq, H, D], key [B, Sk, Hk, D], value [B, Sk, Hk, Dv], bias [B or 1, H or 1, Sq, Sk] float32 (optional)
/// -> [B, Sq, H, Dv] in query's dtype: softmax(scale * Q K^T + bias) V per head (Vaswani et al., 2017). H is a multiple
/// of Hk. `causal` hides keys after the query, both aligned at the end. A row that sees no key gives 0.
class AttentionOp final : public Operator {
 public:
  /// `backend` names the kernel to use; empty: the registry selects.
  AttentionOp(double scale, bool causal, std::string backend = "")
      : scale_(scale), causal_(causal), backend_(std::move(backend)) {}
  double scale() const { return scale_; }
  bool causal() const { return causal_; }
  const std::string& backend() const { return backend_; }

  std::string_view name() const override { return "attention"; }
  std::string attributes() const override {
    return fmt::format("scale={} causal={}{}{}", scale_, causal_, backend_.empty() ? "" : " backend=", backend_);
  }
  std::vector<TensorType> infer(std::span<const TensorType> inputs) const override;
  void reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const override;
  double flops(std::span<const TensorType> inputs) const override;

 private:
  double scale_;
  bool causal_;
  std::string backend_;
};

}  // namespace rondo
