// Operands of an operator's float64 reference.
#pragma once

#include <vector>

#include "rondo/tensor.h"

namespace rondo {

/// Dense, row-major, float64.
struct RefTensor {
  Shape shape;
  std::vector<double> values;
};

/// Of any floating or integer dtype, any strides.
RefTensor to_reference(const Tensor& tensor);

/// Rounded to float32, then to `dtype`.
Tensor from_reference(const RefTensor& reference, DType dtype);

}  // namespace rondo
