// The only door between the ladder of CPU levels and Highway's run-time dispatch.
#pragma once

#include "core/cpu_level.h"

namespace rondo {

/// From now on Highway dispatches to nothing above `level`.
void cap_simd_targets(CpuLevel level);

}  // namespace rondo
