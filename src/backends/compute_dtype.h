// Which dtype a model computes in.
#pragma once

#include <optional>

#include "backends/execution_device.h"
#include "rondo/dtype.h"

namespace rondo {

/// `wanted`, or bf16 where the device (null: the CPU) multiplies it natively and f32 elsewhere. Throws Unsupported for
/// bf16 where it does not and InvalidArgument for any other dtype.
DType resolve_compute_dtype(std::optional<DType> wanted, const ExecutionDevice* device = nullptr);

}  // namespace rondo
