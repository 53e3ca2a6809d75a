// How row-wise kernels find their rows in a tensor whose outer axes may be strided.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "rondo/tensor.h"

namespace rondo::cpu {

/// Row index (over all axes but the last, flattened) -> address. The last axis must be dense; a stride of 0 repeats
/// rows.
class RowMap {
 public:
  RowMap() = default;
  explicit RowMap(const Tensor& tensor)
      : base_(const_cast<std::byte*>(static_cast<const std::byte*>(tensor.data()))),
        dtype_(tensor.dtype()),
        size_(static_cast<std::ptrdiff_t>(dtype_size(tensor.dtype()))),
        shape_(tensor.shape()),
        strides_(tensor.strides()) {
    bool found = false;
    std::int64_t expected = 0;
    for (std::size_t axis = shape_.rank() - 1; axis-- > 0;) {
      if (shape_[axis] == 1) continue;
      if (!found) row_stride_ = expected = strides_[axis];
      found = true;
      uniform_ = uniform_ && strides_[axis] == expected;
      expected *= shape_[axis];
    }
  }

  DType dtype() const { return dtype_; }
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
    return reinterpret_cast<T*>(base_ + static_cast<std::ptrdiff_t>(offset) * size_);
  }

 private:
  friend class RowCursor;

  std::byte* base_ = nullptr;
  DType dtype_ = DType::f32;
  std::ptrdiff_t size_ = 0;
  Shape shape_;
  Shape strides_;
  bool uniform_ = true;
  std::int64_t row_stride_ = 0;
};

/// Goes over a map's rows in order without the divisions that RowMap::row takes: they cost as much as a short row.
class RowCursor {
 public:
  RowCursor(const RowMap& map, std::int64_t first) : map_(map), at_(map.row<std::byte>(first)) {
    for (std::size_t axis = map.shape_.rank() - 1; !map.uniform_ && axis-- > 0;) {
      index_[axis] = first % map.shape_[axis];
      first /= map.shape_[axis];
    }
  }

  template <typename T>
  T* row() const {
    return reinterpret_cast<T*>(at_);
  }

  void next() {
    if (map_.uniform_) {
      at_ += map_.row_stride_ * map_.size_;
      return;
    }
    for (std::size_t axis = map_.shape_.rank() - 1; axis-- > 0;) {
      at_ += map_.strides_[axis] * map_.size_;
      if (++index_[axis] < map_.shape_[axis]) return;
      at_ -= map_.shape_[axis] * map_.strides_[axis] * map_.size_;
      index_[axis] = 0;
    }
  }

 private:
  const RowMap& map_;
  std::byte* at_;
  std::array<std::int64_t, Shape::kMaxRank> index_{};
};

/// True when the last axis has no gaps.
inline bool has_dense_rows(const Tensor& tensor) {
  const std::size_t rank = tensor.shape().rank();
  return rank >= 1 && (tensor.strides()[rank - 1] == 1 || tensor.shape()[rank - 1] == 1);
}

}  // namespace rondo::cpu
