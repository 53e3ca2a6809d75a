// Tensor: shape, strides, dtype and device over shared or borrowed memory.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>

#include "rondo/device.h"
#include "rondo/dtype.h"
#include "rondo/export.h"

namespace rondo RONDO_PUBLIC {

/// Up to eight extents, outermost first. Also used for strides (in elements).
class Shape {
 public:
  static constexpr std::size_t kMaxRank = 8;

  Shape() = default;
  Shape(std::initializer_list<std::int64_t> extents);
  explicit Shape(std::span<const std::int64_t> extents);

  std::size_t rank() const { return rank_; }
  std::int64_t operator[](std::size_t axis) const { return extents_[axis]; }
  std::int64_t& operator[](std::size_t axis) { return extents_[axis]; }
  std::int64_t back() const { return extents_[rank_ - 1]; }
  const std::int64_t* begin() const { return extents_.data(); }
  const std::int64_t* end() const { return extents_.data() + rank_; }
  void push_back(std::int64_t extent);

  /// Product of the extents; 1 for rank 0.
  std::int64_t elements() const;
  /// Product of all extents but the last: how many rows a row-wise operator sees.
  std::int64_t rows() const;
  /// Strides of a dense row-major tensor of this shape.
  Shape dense_strides() const;
  /// "[1, 64, 192]"
  std::string to_string() const;

  bool operator==(const Shape& other) const;

 private:
  std::array<std::int64_t, kMaxRank> extents_{};
  std::size_t rank_ = 0;
};

/// A view of elements in memory that the tensor shares (owner kept alive) or borrows (the caller keeps it alive).
/// Copies are shallow.
class Tensor {
 public:
  Tensor() = default;

  /// New memory, 64-byte aligned, not initialised.
  static Tensor empty(const Shape& shape, DType dtype);
  /// New memory filled with zero bytes.
  static Tensor zeros(const Shape& shape, DType dtype);
  /// Dense view of memory that the caller keeps alive.
  static Tensor borrow(void* data, const Shape& shape, DType dtype, Device device = {});
  /// Dense view of memory that `owner` keeps alive.
  static Tensor share(std::shared_ptr<const void> owner, const void* data, const Shape& shape, DType dtype,
                      Device device = {});

  const Shape& shape() const { return shape_; }
  const Shape& strides() const { return strides_; }
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }
  std::int64_t elements() const { return shape_.elements(); }
  /// Bytes of the elements, without gaps.
  std::size_t bytes() const { return static_cast<std::size_t>(elements()) * dtype_size(dtype_); }
  bool defined() const { return data_ != nullptr; }
  bool is_dense() const;

  void* data() { return data_; }
  const void* data() const { return data_; }
  template <typename T>
  T* as() {
    return static_cast<T*>(data_);
  }
  template <typename T>
  const T* as() const {
    return static_cast<const T*>(data_);
  }

  /// The same memory under another shape of as many elements. Throws InvalidArgument unless the tensor is dense.
  Tensor reshaped(const Shape& shape) const;
  /// The same memory under any shape and strides (in elements), which must stay inside what was allocated.
  Tensor restrided(const Shape& shape, const Shape& strides) const;
  /// Two axes exchanged, without a copy.
  Tensor transposed(std::size_t first, std::size_t second) const;
  /// Elements [begin, end) of one axis, without a copy.
  Tensor sliced(std::size_t axis, std::int64_t begin, std::int64_t end) const;
  /// A dense float32 copy (from any floating or integer dtype). Throws Unsupported for a tensor that is not on the CPU.
  Tensor to_float32() const;
  /// A dense copy in another floating dtype (round to nearest even). Throws as to_float32().
  Tensor to(DType dtype) const;
  /// A dense copy. Throws as to_float32().
  Tensor dense_copy() const;
  /// A dense copy on another device, or on the same. Throws as find_device() and DeviceError.
  Tensor to(Device device) const;

 private:
  Shape shape_;
  Shape strides_;
  DType dtype_ = DType::f32;
  Device device_;
  void* data_ = nullptr;
  std::shared_ptr<const void> owner_;
};

}  // namespace RONDO_PUBLIC
