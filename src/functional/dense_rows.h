// What the public functions do with operands whose last axis has gaps.
#pragma once

#include "rondo/tensor.h"

namespace rondo {

/// The tensor itself where its last axis is dense or it lies on another device, whose kernels say what they take; else
/// a dense copy.
Tensor with_dense_rows(const Tensor& tensor);

}  // namespace rondo
