// The devices of this process.
#pragma once

#include <memory>

#include "backends/execution_device.h"

namespace rondo {

/// Memory on a device, or on the CPU, not initialised.
Tensor empty_on(const Device& device, const Shape& shape, DType dtype);

/// The device, opened: the same object for all while somebody holds it. Null for the CPU. Throws Unsupported, with the
/// reason, for one that is not there; DeviceError for one that cannot be opened.
std::shared_ptr<ExecutionDevice> open_device(const Device& device);

}  // namespace rondo
