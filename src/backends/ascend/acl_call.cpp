#include "backends/ascend/acl_call.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "rondo/error.h"

namespace rondo::ascend {
namespace {

/// The bytes between the beginning of what is described and its last element.
std::int64_t extent_in_elements(const Tensor& tensor) {
  std::int64_t last = 0;
  for (std::size_t axis = 0; axis < tensor.shape().rank(); ++axis)
    last += (tensor.shape()[axis] - 1) * tensor.strides()[axis];
  return tensor.elements() == 0 ? 0 : last + 1;
}

}  // namespace

AclDtype acl_dtype(DType dtype) {
  switch (dtype) {
    case DType::f32: return AclDtype::float32;
    case DType::bf16: return AclDtype::bfloat16;
    case DType::f16: return AclDtype::float16;
    case DType::f8_e4m3: return AclDtype::float8_e4m3fn;
    case DType::s8: return AclDtype::int8;
    case DType::u8: return AclDtype::uint8;
    case DType::s32: return AclDtype::int32;
    case DType::s64: return AclDtype::int64;
    case DType::boolean: return AclDtype::boolean;
  }
  return AclDtype::float32;
}

AclCaller::AclCaller(const ExecutionDevice& device, DeviceStream& stream)
    : device_(device), stream_(static_cast<AscendStream&>(stream)), library_(stream_.runtime().library()) {
  stream_.runtime().use();
}

AclCaller::~AclCaller() { release_descriptors(); }

aclTensor* AclCaller::tensor(const Tensor& tensor, AclFormat format) {
  if (!tensor.defined()) return nullptr;
  const Shape& shape = tensor.shape();
  // CANN wants storage aligned to 32 bytes and a view's beginning in elements after it.
  constexpr std::uintptr_t kAlignment = 32;
  const auto size = static_cast<std::int64_t>(dtype_size(tensor.dtype()));
  const auto address = reinterpret_cast<std::uintptr_t>(tensor.data());
  const std::int64_t offset = static_cast<std::int64_t>(address % kAlignment) / size;
  const std::int64_t storage = offset + extent_in_elements(tensor);
  auto* const storage_begin = static_cast<std::byte*>(const_cast<void*>(tensor.data())) - offset * size;
  // Images are described by their shape, which has to be that of the memory.
  const bool as_shape = format != AclFormat::nd;
  aclTensor* const described =
      library_.aclCreateTensor(shape.begin(), shape.rank(), acl_dtype(tensor.dtype()), tensor.strides().begin(), offset,
                               format, as_shape ? shape.begin() : &storage, as_shape ? shape.rank() : 1, storage_begin);
  if (described == nullptr) throw DeviceError("ascend: aclCreateTensor failed");
  tensors_.push_back(described);
  return described;
}

aclTensorList* AclCaller::list(std::span<const Tensor> tensors) {
  std::vector<const aclTensor*> members;
  for (const Tensor& member : tensors) members.push_back(tensor(member));
  aclTensorList* const described = library_.aclCreateTensorList(members.data(), members.size());
  if (described == nullptr) throw DeviceError("ascend: aclCreateTensorList failed");
  tensors_.resize(tensors_.size() - members.size());  // the list destroys its members
  lists_.push_back(described);
  return described;
}

aclScalar* AclCaller::scalar(double value, DType dtype) {
  aclScalar* described = nullptr;
  if (dtype == DType::s64) {
    auto whole = static_cast<std::int64_t>(value);
    described = library_.aclCreateScalar(&whole, AclDtype::int64);
  } else {
    auto narrow = static_cast<float>(value);
    described = library_.aclCreateScalar(&narrow, AclDtype::float32);
  }
  if (described == nullptr) throw DeviceError("ascend: aclCreateScalar failed");
  scalars_.push_back(described);
  return described;
}

aclIntArray* AclCaller::ints(std::span<const std::int64_t> values) {
  aclIntArray* const described = library_.aclCreateIntArray(values.data(), values.size());
  if (described == nullptr) throw DeviceError("ascend: aclCreateIntArray failed");
  ints_.push_back(described);
  return described;
}

void AclCaller::run(const AclOperatorSymbols& symbols, const char* name, std::uint64_t workspace_bytes,
                    aclOpExecutor* executor) {
  void* workspace = nullptr;
  if (workspace_bytes > 0) {
    try {
      workspaces_.push_back(temporary({static_cast<std::int64_t>(workspace_bytes)}, DType::u8));
    } catch (...) {
      library_.aclDestroyAclOpExecutor(executor);  // the second phase would have
      throw;
    }
    workspace = workspaces_.back().data();
  }
  check(symbols.run(workspace, workspace_bytes, executor, stream_.handle()), name, "");
  release_descriptors();
}

void AclCaller::check(AclStatus status, const char* name, const char* phase) {
  if (status == kAclSuccess) return;
  library_.check(status, fmt::format("{}{}", name, phase).c_str(), stream_.runtime().index());
}

void AclCaller::release_descriptors() {
  for (const aclTensor* each : tensors_) library_.aclDestroyTensor(each);
  for (const aclTensorList* each : lists_) library_.aclDestroyTensorList(each);
  for (const aclScalar* each : scalars_) library_.aclDestroyScalar(each);
  for (const aclIntArray* each : ints_) library_.aclDestroyIntArray(each);
  tensors_.clear();
  lists_.clear();
  scalars_.clear();
  ints_.clear();
}

void AclCaller::copy(const Tensor& from, const Tensor& to) { call(kCopy, tensor(to), tensor(from)); }

void AclCaller::add(const Tensor& a, const Tensor& b, const Tensor& y) {
  call(kAdd, tensor(a), tensor(b), scalar(1), tensor(y));
}

void AclCaller::multiply(const Tensor& a, const Tensor& b, const Tensor& y) {
  call(kMultiply, tensor(a), tensor(b), tensor(y));
}

void AclCaller::multiply_add(const Tensor& a, const Tensor& b, const Tensor& c, const Tensor& y) {
  call(kAddcmul, tensor(a), tensor(b), tensor(c), scalar(1), tensor(y));
}

void AclCaller::add_scalar(const Tensor& x, double value, const Tensor& y) {
  call(kAddScalar, tensor(x), scalar(value), scalar(1), tensor(y));
}

void AclCaller::multiply_scalar(const Tensor& x, double value, const Tensor& y) {
  call(kMultiplyScalar, tensor(x), scalar(value), tensor(y));
}

void AclCaller::linear(const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& y) {
  const Tensor columns = w.transposed(0, 1);
  const std::int8_t math = runtime().capabilities().f32_products ? 0 : 1;
  if (bias.defined()) {
    call(kAddmm, tensor(bias), tensor(x), tensor(columns), scalar(1), scalar(1), tensor(y), math);
  } else {
    call(kMatmul, tensor(x), tensor(columns), tensor(y), math);
  }
}

Tensor AclCaller::dense(const Tensor& tensor) {
  if (tensor.is_dense()) return tensor;
  Tensor whole = temporary(tensor.shape(), tensor.dtype());
  copy(tensor, whole);
  return whole;
}

}  // namespace rondo::ascend
