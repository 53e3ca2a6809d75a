// Arrays of any framework that speaks DLPack, as tensors and back, without a copy.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <string>

#include "rondo/tensor.h"

namespace rondo::python {

using Array = nanobind::ndarray<nanobind::ro>;

/// A view of the array's memory, which the caller keeps alive. `name` begins the message of what is thrown: ValueError
/// for another device than the CPU, TypeError for an element type that Rondo has no name for.
Tensor borrow(const char* name, const Array& array);

/// An array that owns the tensor, for torch.from_dlpack or numpy.from_dlpack. None for an undefined tensor.
nanobind::object hand_over(const Tensor& tensor);

}  // namespace rondo::python
