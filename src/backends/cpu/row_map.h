// How row-wise kernels find their rows in a tensor whose outer axes may be strided.
#pragma once

#include <cstddef>
#include <cstdint>

#include "rondo/tensor.h"

namespace rondo::cpu {

/// Row index (over all axes but the last, flattened) -> address. The last axis must be dense.
class RowMap {
 public:
  RowMap() = default;
  explicit RowMap(const Tensor& tensor)
      : base_(const_cast<std::byte*>(static_cast<const std::byte*>(tensor.data()))),
        size_(dtype_size(tensor.dtype())),
        shape_(tensor.shape()),
        strides_(tensor.strides()) {
    uniform_ = true;
    std::int64_t expected = 0;
    for (std::size_t axis = shape_.rank() - 1; axis-- > 0;) {
      if (shape_[axis] == 1) continue;
      if (expected == 0) {
        row_stride_ = strides_[axis];
        expected = row_stride_;
      }
      uniform_ = uniform_ && strides_[axis] == expected;
      expected *= shape_[axis];
    }
  }

  /// True when consecutive rows are always `row_stride` elements apart.
  bool uniform() const { return uniform_; }
  std::int64_t row_stride() const { return row_stride_; }

  template <typename T>
  T* row(std::int64_t index) const {
    std::int64_t offset = 0;
    if (uniform_) {
      offset = index * row_stride_;
    } else {
      for (std::size_t axis = shape_.rank() - 1; axis-- > 0;) {
        offset += index % shape_[axis] * strides_[axis];
        index /= shape_[axis];
      }
    }
    return reinterpret_cast<T*>(base_ + static_cast<std::ptrdiff_t>(offset) * static_cast<std::ptrdiff_t>(size_));
  }

 private:
  std::byte* base_ = nullptr;
  std::size_t size_ = 0;
  Shape shape_;
  Shape strides_;
  bool uniform_ = true;
  std::int64_t row_stride_ = 0;
};

/// True when the last axis has no gaps.
inline bool has_dense_rows(const Tensor& tensor) {
  const std::size_t rank = tensor.shape().rank();
  return rank >= 1 && (tensor.strides()[rank - 1] == 1 || tensor.shape()[rank - 1] == 1);
}

}  // namespace rondo::cpu
