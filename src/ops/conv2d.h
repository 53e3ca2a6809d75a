// Two-dimensional convolution over channels-last pictures.
#pragma once

#include "ops/operator.h"

namespace rondo {

/// x [B, H, W, C], weight [O, C, Kh, Kw], bias [O] (optional) -> [B, H', W', O] in x's dtype.
class Conv2dOp final : public Operator {
 public:
  struct Padding {
    std::int64_t top = 0;
    std::int64_t bottom = 0;
    std::int64_t left = 0;
    std::int64_t right = 0;
  };

  Conv2dOp(std::int64_t stride, Padding padding) : stride_(stride), padding_(padding) {}

  std::int64_t stride() const { return stride_; }
  const Padding& padding() const { return padding_; }

  std::string_view name() const override { return "conv2d"; }
  std::string attributes() const override;
  std::vector<TensorType> infer(std::span<const TensorType> inputs) const override;
  void reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const override;
  double flops(std::span<const TensorType> inputs) const override;

 private:
  std::int64_t stride_;
  Padding padding_;
};

}  // namespace rondo
