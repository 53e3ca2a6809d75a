#include "ops/layout.h"

#include <algorithm>

namespace rondo {

std::optional<Tensor> view_as(const Tensor& tensor, const Shape& shape) {
  if (tensor.is_dense()) return tensor.reshaped(shape);
  if (tensor.elements() == 0) return tensor.restrided(shape, shape.dense_strides());
  // From the innermost axis outwards: axes that lie without a gap in one another form a run, and a run has to be a
  // product of new axes. Axes of extent 1 lie anywhere.
  const Shape& old = tensor.shape();
  Shape strides = shape.dense_strides();
  std::size_t next = shape.rank();
  for (std::size_t axis = old.rank(); axis-- > 0;) {
    if (old[axis] == 1) continue;
    const std::int64_t stride = tensor.strides()[axis];
    std::int64_t run = old[axis];
    for (; axis > 0 && (old[axis - 1] == 1 || tensor.strides()[axis - 1] == stride * run); --axis) run *= old[axis - 1];
    std::int64_t covered = 1;
    while (covered < run) {
      strides[--next] = stride * covered;
      covered *= shape[next];
    }
    if (covered != run) return std::nullopt;
  }
  return tensor.restrided(shape, strides);
}

std::vector<TensorType> ReshapeOp::infer(std::span<const TensorType> inputs) const {
  check_count(inputs, 1, 1);
  check(inputs[0].shape.elements() == shape_.elements(), "{} cannot become {}: the numbers of elements differ",
        inputs[0].shape.to_string(), shape_.to_string());
  TensorType result = inputs[0];
  result.shape = shape_;
  return {result};
}

void ReshapeOp::reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const {
  outputs[0].values = inputs[0].values;
}

std::optional<Tensor> ReshapeOp::view(const Tensor& input) const { return view_as(input, shape_); }

std::vector<TensorType> SliceOp::infer(std::span<const TensorType> inputs) const {
  check_count(inputs, 1, 1);
  TensorType result = inputs[0];
  check(axis_ < result.shape.rank() && begin_ >= 0 && begin_ <= end_ && end_ <= result.shape[axis_],
        "[{}, {}) of axis {} is outside {}", begin_, end_, axis_, result.shape.to_string());
  result.shape[axis_] = end_ - begin_;
  return {result};
}

void SliceOp::reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const {
  const Shape& shape = inputs[0].shape;
  std::int64_t inner = 1;
  for (std::size_t axis = axis_ + 1; axis < shape.rank(); ++axis) inner *= shape[axis];
  const std::int64_t run = (end_ - begin_) * inner;
  const std::int64_t outer = shape.elements() / std::max<std::int64_t>(1, shape[axis_] * inner);
  for (std::int64_t i = 0; i < outer; ++i) {
    std::copy_n(&inputs[0].values[(i * shape[axis_] + begin_) * inner], run, &outputs[0].values[i * run]);
  }
}

std::optional<Tensor> SliceOp::view(const Tensor& input) const { return input.sliced(axis_, begin_, end_); }

std::vector<TensorType> ConcatOp::infer(std::span<const TensorType> inputs) const {
  check(!inputs.empty(), "takes at least one input");
  TensorType result = inputs[0];
  check(axis_ < result.shape.rank(), "axis {} is outside {}", axis_, result.shape.to_string());
  for (const TensorType& input : inputs.subspan(1)) {
    Shape comparable = input.shape;
    if (axis_ < comparable.rank()) comparable[axis_] = result.shape[axis_];
    check(comparable == result.shape && input.dtype == result.dtype, "{} and {} do not fit along axis {}",
          result.to_string(), input.to_string(), axis_);
    result.shape[axis_] += input.shape[axis_];
  }
  return {result};
}

void ConcatOp::reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const {
  std::int64_t outer = 1;
  for (std::size_t axis = 0; axis < axis_; ++axis) outer *= outputs[0].shape[axis];
  double* target = outputs[0].values.data();
  for (std::int64_t i = 0; i < outer; ++i) {
    for (const RefTensor& input : inputs) {
      const std::int64_t run = input.shape.elements() / outer;
      target = std::copy_n(&input.values[i * run], run, target);
    }
  }
}

std::vector<TensorType> DeviceCopyOp::infer(std::span<const TensorType> inputs) const {
  check_count(inputs, 1, 1);
  return {{inputs[0].shape, inputs[0].dtype, target_}};
}

void DeviceCopyOp::reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const {
  outputs[0].values = inputs[0].values;
}

std::vector<TensorType> UpsampleNearestOp::infer(std::span<const TensorType> inputs) const {
  check_count(inputs, 1, 1);
  const Shape& x = inputs[0].shape;
  check(x.rank() == 4, "input {} does not fit; allowed is [B, H, W, C]", x.to_string());
  TensorType result = inputs[0];
  result.shape = {x[0], 2 * x[1], 2 * x[2], x[3]};
  return {result};
}

void UpsampleNearestOp::reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const {
  const Shape& y = outputs[0].shape;
  const Shape& x = inputs[0].shape;
  double* target = outputs[0].values.data();
  for (std::int64_t b = 0; b < y[0]; ++b) {
    for (std::int64_t oy = 0; oy < y[1]; ++oy) {
      for (std::int64_t ox = 0; ox < y[2]; ++ox) {
        target = std::copy_n(&inputs[0].values[((b * x[1] + oy / 2) * x[2] + ox / 2) * x[3]], x[3], target);
      }
    }
  }
}

}  // namespace rondo
