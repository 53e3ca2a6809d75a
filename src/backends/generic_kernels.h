// Kernels that are the same on every device.
#pragma once

#include <span>

#include "backends/kernel.h"

namespace rondo {

/// "attention": by the registry, among the kernels of the request's device.
std::span<const KernelEntry> attention_node_kernels();

/// Of devices other than the CPU: attention, and copies from and to the CPU.
std::span<const KernelEntry> generic_kernels();

}  // namespace rondo
