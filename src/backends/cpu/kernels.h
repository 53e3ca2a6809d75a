// The CPU's kernels: the ordered list, and the parts that each file adds to it.
#pragma once

#include <span>

#include "backends/kernel.h"

namespace rondo::cpu {

/// Every kernel of the CPU, best first for each operator, the reference last.
std::span<const KernelEntry> kernels();

// Each is defined in the file of its name.
std::span<const KernelEntry> tiled_linear_kernels();
std::span<const KernelEntry> linear_kernels();
std::span<const KernelEntry> int8_linear_kernels();
std::span<const KernelEntry> decoded_linear_kernels();
std::span<const KernelEntry> conv2d_kernels();
std::span<const KernelEntry> norm_kernels();
std::span<const KernelEntry> row_kernels();
std::span<const KernelEntry> group_norm_kernels();
std::span<const KernelEntry> copy_kernels();
std::span<const KernelEntry> exchange_kernels();
std::span<const KernelEntry> wire_kernels();
std::span<const KernelEntry> reference_kernels();

}  // namespace rondo::cpu
