// Which GPU is played.
#pragma once

namespace rondo::cuda {

/// Its compute capability, 90 for 9.0: EMULATED_COMPUTE_CAPABILITY.
int emulated_capability();

}  // namespace rondo::cuda
