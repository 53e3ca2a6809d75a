// Tensors between host and device, whatever their strides.
#pragma once

#include "device/device_runtime.h"
#include "rondo/tensor.h"

namespace rondo {

/// Copies `from` to `to`, of one shape and dtype, in the stream's order. Rows that are dense in both go as one piece;
/// what is strided in its last axis goes element by element.
void copy_tensor(const Tensor& from, Tensor to, DeviceRuntime& runtime, DeviceStream& stream);

}  // namespace rondo
