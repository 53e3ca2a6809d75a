#include "rondo/tensor.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

#include "core/float_formats.h"
#include "core/memory.h"
#include "rondo/error.h"

namespace rondo {
namespace {

float read_as_float(const std::byte* element, DType dtype) {
  const auto load = [element]<typename T>(T value) {
    std::memcpy(&value, element, sizeof value);
    return value;
  };
  switch (dtype) {
    case DType::f32: return load(float{});
    case DType::bf16: return bf16_to_float(load(std::uint16_t{}));
    case DType::f16: return f16_to_float(load(std::uint16_t{}));
    case DType::f8_e4m3: return f8_e4m3_to_float(load(std::uint8_t{}));
    case DType::s8: return static_cast<float>(load(std::int8_t{}));
    case DType::u8:
    case DType::boolean: return static_cast<float>(load(std::uint8_t{}));
    case DType::s32: return static_cast<float>(load(std::int32_t{}));
    case DType::s64: return static_cast<float>(load(std::int64_t{}));
  }
  return 0;
}

/// Calls visit(offset in elements) for every element, in row-major order.
template <typename Visit>
void for_each_offset(const Shape& shape, const Shape& strides, const Visit& visit) {
  const std::int64_t count = shape.elements();
  std::array<std::int64_t, Shape::kMaxRank> index{};
  std::int64_t offset = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    visit(offset);
    for (std::size_t axis = shape.rank(); axis-- > 0;) {
      offset += strides[axis];
      if (++index[axis] < shape[axis]) break;
      offset -= strides[axis] * shape[axis];
      index[axis] = 0;
    }
  }
}

void require_cpu(const Tensor& tensor) {
  if (tensor.device().is_cpu()) return;
  throw Unsupported(fmt::format("tensor: {} {} lies on {}; its elements can be read on the CPU only",
                                dtype_name(tensor.dtype()), tensor.shape().to_string(), to_string(tensor.device())));
}

}  // namespace

Shape::Shape(std::initializer_list<std::int64_t> extents)
    : Shape(std::span<const std::int64_t>(extents.begin(), extents.size())) {}

Shape::Shape(std::span<const std::int64_t> extents) {
  for (const std::int64_t extent : extents) push_back(extent);
}

void Shape::push_back(std::int64_t extent) {
  if (rank_ == kMaxRank) throw InvalidArgument(fmt::format("shape: rank is limited to {}", kMaxRank));
  extents_[rank_++] = extent;
}

std::int64_t Shape::elements() const {
  std::int64_t count = 1;
  for (const std::int64_t extent : *this) count *= extent;
  return count;
}

std::int64_t Shape::rows() const {
  std::int64_t count = 1;
  for (std::size_t axis = 0; axis + 1 < rank_; ++axis) count *= extents_[axis];
  return count;
}

Shape Shape::dense_strides() const {
  Shape strides = *this;
  std::int64_t stride = 1;
  for (std::size_t axis = rank_; axis-- > 0;) {
    strides[axis] = stride;
    stride *= extents_[axis];
  }
  return strides;
}

std::string Shape::to_string() const {
  std::string text = "[";
  for (std::size_t axis = 0; axis < rank_; ++axis) text += fmt::format("{}{}", axis == 0 ? "" : ", ", extents_[axis]);
  return text + "]";
}

bool Shape::operator==(const Shape& other) const { return std::equal(begin(), end(), other.begin(), other.end()); }

Tensor Tensor::empty(const Shape& shape, DType dtype) {
  // Shapes come from outside too (a view may repeat one element 2^62 times).
  std::int64_t bytes = static_cast<std::int64_t>(dtype_size(dtype));
  bool fits = true;
  for (const std::int64_t extent : shape) fits = fits && !__builtin_mul_overflow(bytes, extent, &bytes);
  constexpr std::int64_t kMostBytes = std::int64_t{1} << 56;
  if (!fits || bytes > kMostBytes) {
    if (std::find(shape.begin(), shape.end(), 0) == shape.end())
      throw Error(fmt::format("memory: cannot allocate {} elements of {}", shape.to_string(), dtype_name(dtype)));
  }
  Tensor tensor = borrow(nullptr, shape, dtype);
  const std::shared_ptr<void> memory = allocate_aligned(tensor.bytes());
  tensor.data_ = memory.get();
  tensor.owner_ = memory;
  return tensor;
}

Tensor Tensor::zeros(const Shape& shape, DType dtype) {
  Tensor tensor = empty(shape, dtype);
  std::memset(tensor.data_, 0, tensor.bytes());
  return tensor;
}

Tensor Tensor::borrow(void* data, const Shape& shape, DType dtype, Device device) {
  Tensor tensor;
  tensor.device_ = device;
  tensor.shape_ = shape;
  tensor.strides_ = shape.dense_strides();
  tensor.dtype_ = dtype;
  tensor.data_ = data;
  return tensor;
}

Tensor Tensor::share(std::shared_ptr<const void> owner, const void* data, const Shape& shape, DType dtype,
                     Device device) {
  // A tensor over read-only memory (a mapped file) is only ever an operator's input.
  Tensor tensor = borrow(const_cast<void*>(data), shape, dtype, device);
  tensor.owner_ = std::move(owner);
  return tensor;
}

bool Tensor::is_dense() const {
  std::int64_t expected = 1;
  for (std::size_t axis = shape_.rank(); axis-- > 0;) {
    if (shape_[axis] != 1 && strides_[axis] != expected) return false;
    expected *= shape_[axis];
  }
  return true;
}

Tensor Tensor::reshaped(const Shape& shape) const {
  if (shape.elements() != elements() || !is_dense()) {
    throw InvalidArgument(fmt::format("reshape: {} tensor {} cannot be viewed as {}",
                                      is_dense() ? "a dense" : "a strided", shape_.to_string(), shape.to_string()));
  }
  Tensor view = *this;
  view.shape_ = shape;
  view.strides_ = shape.dense_strides();
  return view;
}

Tensor Tensor::restrided(const Shape& shape, const Shape& strides) const {
  Tensor view = *this;
  view.shape_ = shape;
  view.strides_ = strides;
  return view;
}

Tensor Tensor::transposed(std::size_t first, std::size_t second) const {
  Tensor view = *this;
  std::swap(view.shape_[first], view.shape_[second]);
  std::swap(view.strides_[first], view.strides_[second]);
  return view;
}

Tensor Tensor::sliced(std::size_t axis, std::int64_t begin, std::int64_t end) const {
  if (axis >= shape_.rank() || begin < 0 || end < begin || end > shape_[axis]) {
    throw InvalidArgument(
        fmt::format("slice: [{}, {}) of axis {} is outside the shape {}", begin, end, axis, shape_.to_string()));
  }
  Tensor view = *this;
  view.shape_[axis] = end - begin;
  if (data_ != nullptr) {  // null in the prototypes from which plans are made
    view.data_ = static_cast<std::byte*>(data_) + static_cast<std::size_t>(begin * strides_[axis]) * dtype_size(dtype_);
  }
  return view;
}

Tensor Tensor::to_float32() const {
  require_cpu(*this);
  Tensor result = empty(shape_, DType::f32);
  const auto* source = static_cast<const std::byte*>(data_);
  float* target = result.as<float>();
  const std::int64_t count = elements();
  if (is_dense() && dtype_ == DType::f32) {
    std::memcpy(target, source, bytes());
  } else if (is_dense() && dtype_ == DType::bf16) {
    const auto* narrow = as<std::uint16_t>();
    for (std::int64_t i = 0; i < count; ++i) target[i] = bf16_to_float(narrow[i]);
  } else {
    const std::size_t size = dtype_size(dtype_);
    for_each_offset(shape_, strides_, [&](std::int64_t offset) {
      *target++ = read_as_float(source + static_cast<std::size_t>(offset) * size, dtype_);
    });
  }
  return result;
}

Tensor Tensor::dense_copy() const {
  require_cpu(*this);
  Tensor result = empty(shape_, dtype_);
  const std::size_t size = dtype_size(dtype_);
  std::byte* target = result.as<std::byte>();
  if (is_dense()) {
    std::copy_n(as<std::byte>(), bytes(), target);
  } else {
    for_each_offset(shape_, strides_, [&](std::int64_t offset) {
      target = std::copy_n(as<std::byte>() + static_cast<std::size_t>(offset) * size, size, target);
    });
  }
  return result;
}

Tensor Tensor::to(DType dtype) const {
  const Tensor wide = to_float32();
  if (dtype == DType::f32) return wide;
  Tensor result = empty(shape_, dtype);
  const float* source = wide.as<float>();
  const std::int64_t count = elements();
  const auto convert = [&]<typename T>(T* target, auto&& narrow) {
    for (std::int64_t i = 0; i < count; ++i) target[i] = narrow(source[i]);
  };
  switch (dtype) {
    case DType::bf16: convert(result.as<std::uint16_t>(), float_to_bf16); break;
    case DType::f16: convert(result.as<std::uint16_t>(), float_to_f16); break;
    case DType::f8_e4m3: convert(result.as<std::uint8_t>(), float_to_f8_e4m3); break;
    default:
      throw InvalidArgument(
          fmt::format("tensor: cannot convert to {}; allowed are the floating dtypes", dtype_name(dtype)));
  }
  return result;
}

}  // namespace rondo
