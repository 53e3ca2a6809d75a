// The devices of this process.
#pragma once

#include <memory>

#include "backends/execution_device.h"

namespace rondo {

/// Memory on a device, or on the CPU, not initialised.
Tensor empty_on(const Device& device, const Shape& shape, DType dtype);

/// As find_device(), for one of several processes on a host: a text without a number, or none, is the `turn`-th device
/// of its kind, counted round.
Device find_device_of_turn(const std::string& text, int turn);

/// The device, opened: the same object for all while somebody holds it. Null for the CPU. Throws Unsupported, with the
/// reason, for one that is not there; DeviceError for one that cannot be opened.
std::shared_ptr<ExecutionDevice> open_device(const Device& device);

}  // namespace rondo
