#include "ops/ref_tensor.h"

#include <algorithm>

namespace rondo {

RefTensor to_reference(const Tensor& tensor) {
  const Tensor wide = tensor.to_float32();
  return {tensor.shape(), std::vector<double>(wide.as<float>(), wide.as<float>() + wide.elements())};
}

Tensor from_reference(const RefTensor& reference, DType dtype) {
  Tensor wide = Tensor::empty(reference.shape, DType::f32);
  std::transform(reference.values.begin(), reference.values.end(), wide.as<float>(),
                 [](double value) { return static_cast<float>(value); });
  return wide.to(dtype);
}

}  // namespace rondo
