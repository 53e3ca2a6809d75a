// Operators that move or re-read elements without arithmetic.
#pragma once

#include "ops/operator.h"

namespace rondo {

/// The same memory under another shape of as many elements, where strides allow it without a copy.
std::optional<Tensor> view_as(const Tensor& tensor, const Shape& shape);

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
  std::size_t axis() const { return axis_; }
  std::int64_t begin() const { return begin_; }
  std::int64_t end() const { return end_; }
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

/// Tensors of one dtype, one after the other along an axis. With `parts_in_place` whatever computes them writes them
/// where they belong, and nothing is left to do.
class ConcatOp final : public Operator {
 public:
  explicit ConcatOp(std::size_t axis, bool parts_in_place = false) : axis_(axis), parts_in_place_(parts_in_place) {}
  std::size_t axis() const { return axis_; }
  bool parts_in_place() const { return parts_in_place_; }
  std::string_view name() const override { return "concat"; }
  std::string attributes() const override {
    return fmt::format("axis={}{}", axis_, parts_in_place_ ? " parts in place" : "");
  }
  std::vector<TensorType> infer(std::span<const TensorType> inputs) const override;
  void reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const override;

 private:
  std::size_t axis_;
  bool parts_in_place_;
};

/// The same elements on another device.
class DeviceCopyOp final : public Operator {
 public:
  explicit DeviceCopyOp(Device target) : target_(target) {}
  std::string_view name() const override { return "device_copy"; }
  std::string attributes() const override { return "to " + to_string(target_); }
  RowGaps row_gaps() const override { return RowGaps::anywhere; }
  std::vector<TensorType> infer(std::span<const TensorType> inputs) const override;
  void reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const override;

 private:
  Device target_;
};

/// x [B, H, W, C] -> [B, 2H, 2W, C]: each pixel becomes a square of four.
class UpsampleNearestOp final : public Operator {
 public:
  std::string_view name() const override { return "upsample_nearest"; }
  std::vector<TensorType> infer(std::span<const TensorType> inputs) const override;
  void reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const override;
};

}  // namespace rondo
