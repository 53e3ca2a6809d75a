#include "functional/dense_rows.h"

#include <algorithm>

namespace rondo {

Tensor with_dense_rows(const Tensor& tensor) {
  if (tensor.shape().rank() == 0) return tensor;
  const std::size_t last = tensor.shape().rank() - 1;
  if (tensor.strides()[last] == 1 || tensor.shape()[last] == 1 || tensor.elements() == 0) return tensor;
  if (is_floating(tensor.dtype())) return tensor.to(tensor.dtype());
  Tensor copy = Tensor::empty(tensor.shape(), tensor.dtype());  // boolean
  const Tensor wide = tensor.to_float32();
  std::transform(wide.as<float>(), wide.as<float>() + wide.elements(), copy.as<bool>(),
                 [](float value) { return value != 0; });
  return copy;
}

}  // namespace rondo
