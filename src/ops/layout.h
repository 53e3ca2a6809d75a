// Operators that move or re-read elements without arithmetic.
#pragma once

#include "ops/operator.h"

namespace rondo {

/// The same elements under another shape. A view wherever strides allow.
class ReshapeOp final : public Operator {
 public:
  explicit ReshapeOp(const Shape& shape) : shape_(shape) {}
  std::string_view name() const override { return "reshape"; }
  std::string attributes() const override { return shape_.to_string(); }
  std::vector<TensorType> infer(std::span<const TensorType> inputs) const override;
  void reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const override;
  std::optional<Tensor> view(const Tensor& input) const override;

 private:
  Shape shape_;
};

/// Elements [begin, end) of one axis. Always a view.
class SliceOp final : public Operator {
 public:
  SliceOp(std::size_t axis, std::int64_t begin, std::int64_t end) : axis_(axis), begin_(begin), end_(end) {}
  std::string_view name() const override { return "slice"; }
  std::string attributes() const override { return fmt::format("axis={} [{}, {})", axis_, begin_, end_); }
  std::vector<TensorType> infer(std::span<const TensorType> inputs) const override;
  void reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const override;
  std::optional<Tensor> view(const Tensor& input) const override;

 private:
  std::size_t axis_;
  std::int64_t begin_;
  std::int64_t end_;
};

/// Tensors of one dtype, one after the other along an axis.
class ConcatOp final : public Operator {
 public:
  explicit ConcatOp(std::size_t axis) : axis_(axis) {}
  std::size_t axis() const { return axis_; }
  std::string_view name() const override { return "concat"; }
  std::string attributes() const override { return fmt::format("axis={}", axis_); }
  std::vector<TensorType> infer(std::span<const TensorType> inputs) const override;
  void reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const override;

 private:
  std::size_t axis_;
};

/// x [B, H, W, C] -> [B, 2H, 2W, C]: each pixel becomes a square of four.
class UpsampleNearestOp final : public Operator {
 public:
  std::string_view name() const override { return "upsample_nearest"; }
  std::vector<TensorType> infer(std::span<const TensorType> inputs) const override;
  void reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const override;
};

}  // namespace rondo
