// What the public functions do with operands whose last axis has gaps.
#pragma once

#include "rondo/tensor.h"

namespace rondo {

/// The tensor itself where its last axis is dense, else a dense copy. Floating or boolean.
Tensor with_dense_rows(const Tensor& tensor);

}  // namespace rondo
