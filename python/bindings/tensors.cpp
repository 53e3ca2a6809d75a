#include "tensors.h"

#include <array>
#include <memory>

namespace rondo::python {
namespace nb = nanobind;
namespace {

struct Pair {
  DType dtype;
  nb::dlpack::dtype code;
};

constexpr auto code(nb::dlpack::dtype_code kind, std::uint8_t bits) {
  return nb::dlpack::dtype{static_cast<std::uint8_t>(kind), bits, 1};
}

constexpr std::array kPairs{
    Pair{DType::f32, code(nb::dlpack::dtype_code::Float, 32)},
    Pair{DType::bf16, code(nb::dlpack::dtype_code::Bfloat, 16)},
    Pair{DType::f16, code(nb::dlpack::dtype_code::Float, 16)},
    Pair{DType::boolean, code(nb::dlpack::dtype_code::Bool, 8)},
    Pair{DType::s8, code(nb::dlpack::dtype_code::Int, 8)},
    Pair{DType::u8, code(nb::dlpack::dtype_code::UInt, 8)},
    Pair{DType::s32, code(nb::dlpack::dtype_code::Int, 32)},
    Pair{DType::s64, code(nb::dlpack::dtype_code::Int, 64)},
};

std::string kind_name(std::uint8_t code) {
  switch (static_cast<nb::dlpack::dtype_code>(code)) {
    case nb::dlpack::dtype_code::Int: return "int";
    case nb::dlpack::dtype_code::UInt: return "uint";
    case nb::dlpack::dtype_code::Float: return "float";
    case nb::dlpack::dtype_code::Bfloat: return "bfloat";
    case nb::dlpack::dtype_code::Complex: return "complex";
    default: return "of DLPack type " + std::to_string(code) + ", bits ";
  }
}

}  // namespace

Tensor borrow(const char* name, const Array& array) {
  if (array.device_type() != nb::device::cpu::value) {
    throw nb::value_error((std::string(name) + " is not in the CPU's memory; allowed is the CPU").c_str());
  }
  if (array.ndim() > Shape::kMaxRank) throw nb::value_error((std::string(name) + " has more than 8 axes").c_str());
  Shape shape;
  Shape strides;
  for (std::size_t axis = 0; axis < array.ndim(); ++axis) {
    shape.push_back(static_cast<std::int64_t>(array.shape(axis)));
    strides.push_back(array.stride(axis));
  }
  for (const Pair& pair : kPairs) {
    if (pair.code != array.dtype()) continue;
    if (array.size() == 0) return Tensor::empty(shape, pair.dtype);  // such arrays may have no memory at all
    if (array.data() == nullptr) throw nb::value_error((std::string(name) + " has no memory").c_str());
    return Tensor::borrow(const_cast<void*>(array.data()), shape, pair.dtype).restrided(shape, strides);
  }
  const std::string type = kind_name(array.dtype().code) + std::to_string(array.dtype().bits);
  throw nb::type_error((std::string(name) + " is " + type + "; allowed are float32, bfloat16 and float16").c_str());
}

nb::object hand_over(const Tensor& tensor) {
  if (!tensor.defined()) return nb::none();
  auto kept = std::make_unique<Tensor>(tensor);
  void* data = kept->data();
  const nb::capsule owner(kept.release(),
                          [](void* memory) noexcept { std::unique_ptr<Tensor>(static_cast<Tensor*>(memory)).reset(); });
  std::array<std::size_t, Shape::kMaxRank> shape{};
  std::array<std::int64_t, Shape::kMaxRank> strides{};
  for (std::size_t axis = 0; axis < tensor.shape().rank(); ++axis) {
    shape[axis] = static_cast<std::size_t>(tensor.shape()[axis]);
    strides[axis] = tensor.strides()[axis];
  }
  for (const Pair& pair : kPairs) {
    if (pair.dtype == tensor.dtype()) {
      return nb::cast(nb::ndarray<nb::array_api>(data, tensor.shape().rank(), shape.data(), owner, strides.data(),
                                                 pair.code, nb::device::cpu::value));
    }
  }
  throw nb::type_error("the result's element type has no name in DLPack");
}

}  // namespace rondo::python
