// Kernels that are the same on every device.
#pragma once

#include <span>

#include "backends/kernel.h"

namespace rondo {

/// "attention": by the registry, among the kernels of the request's device.
std::span<const KernelEntry> attention_node_kernels();

/// Of devices other than the CPU: messages between ranks, and heads packed for them.
std::span<const KernelEntry> device_exchange_kernels();

/// All of devices other than the CPU: attention, copies from and to the CPU, what parallel graphs exchange.
std::span<const KernelEntry> generic_kernels();

}  // namespace rondo
