// Which GPU is played, and how it is given work.
#pragma once

#include <functional>

#include "rondo/tensor.h"

namespace rondo::cuda {

/// Its compute capability, 90 for 9.0: EMULATED_COMPUTE_CAPABILITY.
int emulated_capability();

/// Does the work, or records it where the stream (a StreamHandle) does so.
void submit(void* stream, std::function<void()> work);

/// As recorded work knows a tensor: its address, not its memory.
Tensor unowned(const Tensor& tensor);

}  // namespace rondo::cuda
