// Memory for tensors, and how much of it a process may still take.
#pragma once

#include <cstdint>
#include <memory>

namespace rondo {

/// Bytes that can be allocated without swapping: what the system says is available, within the cgroup's limit. A very
/// large number where neither can be read.
std::uint64_t available_memory();

/// Bytes of memory that the machine has; 0 where it cannot be read.
std::uint64_t total_memory();

/// Bytes that this process has in memory now; 0 where it cannot be read.
std::uint64_t resident_memory();

/// The most that it has had; 0 where it cannot be read.
std::uint64_t peak_memory();

/// `bytes` of uninitialised memory, aligned to 64 bytes. Large blocks ask the system for huge pages: a FLUX-width step
/// in bfloat16 took 2.4 s without and 1.3 s with them (a virtual machine, where a TLB miss walks two page tables).
/// Throws Error when there is no memory.
std::shared_ptr<void> allocate_aligned(std::size_t bytes);

}  // namespace rondo
