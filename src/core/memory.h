// How much memory a process may still take.
#pragma once

#include <cstdint>

namespace rondo {

/// Bytes that can be allocated without swapping: what the system says is available, within the cgroup's limit. A very
/// large number where neither can be read.
std::uint64_t available_memory();

}  // namespace rondo
