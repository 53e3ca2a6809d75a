#include "functional/dense_rows.h"

namespace rondo {

Tensor with_dense_rows(const Tensor& tensor) {
  if (tensor.shape().rank() == 0 || !tensor.device().is_cpu()) return tensor;
  const std::size_t last = tensor.shape().rank() - 1;
  if (tensor.strides()[last] == 1 || tensor.shape()[last] == 1 || tensor.elements() == 0) return tensor;
  return tensor.dense_copy();
}

}  // namespace rondo
