// Where each buffer of a plan lies in one arena.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace rondo {

/// A buffer that holds something from step `first` to step `last`, both included.
struct BufferLife {
  std::size_t bytes = 0;
  int first = 0;
  int last = 0;
};

struct MemoryPlan {
  std::vector<std::size_t> offsets;  // one a buffer, multiples of 64
  std::size_t arena_bytes = 0;
  std::size_t naive_bytes = 0;  // if every buffer had memory of its own
};

/// Buffers whose lives overlap get disjoint ranges. Greedy, largest first, each at the lowest free offset (Pisarchyk
/// and Lee, 2020, "greedy by size"): within a few per cent of the lower bound on transformer graphs.
MemoryPlan plan_memory(std::span<const BufferLife> buffers);

}  // namespace rondo
