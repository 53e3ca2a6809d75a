// Which dtype a model computes in on this CPU.
#pragma once

#include <optional>

#include "rondo/dtype.h"

namespace rondo {

/// `wanted`, or bf16 where the CPU multiplies it natively and f32 elsewhere. Throws Unsupported for bf16 on a CPU
/// without it and InvalidArgument for any other dtype.
DType resolve_compute_dtype(std::optional<DType> wanted);

}  // namespace rondo
